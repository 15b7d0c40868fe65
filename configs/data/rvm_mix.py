"""The paper's data (RVM, Table 4): five sources, each with its frame rate and its share of the clips.

    rvm train --config configs/data/rvm_mix.py --workdir runs/s                              # RVM-S on them
    rvm train --config configs/rvm_h.py --workdir runs/h --config.data.mixture=configs/data/rvm_mix.py

The paths are placeholders. Make the folders with `rvm prepare`, as docs/data.md shows. Put or link them here, or change
the paths in a copy of this file. A frame rate must not be higher than the one the shards were prepared with.
"""

from rvm_jax import config

MIXTURE = (
    # path, frames a second, weight    clips in the paper, kind of video
    ('shards/ssv2', 25, 0.056),  # 168 thousand, first person
    ('shards/kinetics700', 25, 0.188),  # 733 thousand, third person
    ('shards/howto100m', 10, 0.318),  # 1.1 million
    ('shards/yt8m', 10, 0.188),  # 3.3 million
    ('shards/ytbb', 10, 0.250),  # 380 thousand
)


def get_config():
    """The recipe."""
    c = config.default()
    c.data.mixture = MIXTURE
    return c

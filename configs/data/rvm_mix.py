"""The paper's data (RVM, Table 4): five sources, with the frame rate and the share of the clips of each.

    rvm train --config configs/data/rvm_mix.py --workdir runs/s                              # RVM-S on them
    rvm train --config configs/rvm_h.py --workdir runs/h --config.data.mixture=configs/data/rvm_mix.py

The paths are placeholders: make the folders with `rvm prepare`, as the README shows, here or elsewhere and link them,
or write their places into a copy of this file. Frame rates must be those that the shards were prepared with, or lower.
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

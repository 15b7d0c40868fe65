"""RVM-S on one GPU of 24 GB in two days: 256 x 256 pixels as in the paper, 20 million clips instead of two billion.

    rvm train --config configs/one_gpu.py --workdir runs/s --config.data.path=VIDEOS
    rvm plan --config configs/one_gpu.py --device rtx4090

By the estimate of `rvm plan` a step of 256 clips, computed in 8 parts, takes 2.0 s on an RTX 4090 and 10.0 GiB of its
memory. On a card with less memory raise accumulate: the step stays the same. Schedule and batch are ours.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 80_000
    c.batch_size = 256
    c.accumulate = 8
    c.model.size = 's'
    c.optim.peak_lr = 1.5e-4  # 1.5e-4 x batch / 256
    return c

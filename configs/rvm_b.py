"""RVM-B pre-training as in the paper (supplement, sections 7 and 8): batch 2048, 256 x 256 pixels, 95 % masked.

    rvm train --config configs/rvm_b.py --workdir runs/b --config.data.path=VIDEOS --config.batch_size=64

The learning rate is for batch 2048. With another batch size, set config.optim.peak_lr to 1.5e-4 x batch / 256.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.model.size = 'b'
    return c

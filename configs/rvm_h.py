"""RVM-H pre-training as in the paper (supplement, sections 7 and 8): batch 2048, 256 x 256 pixels, 95 % masked.

    rvm train --config configs/rvm_h.py --workdir runs/h --config.data.path=VIDEOS --config.batch_size=64

The learning rate is for batch 2048. With another batch size, set config.optim.peak_lr to 1.5e-4 x batch / 256.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.model.size = 'h'
    c.optim.peak_lr = 6e-4  # ours: the default rule is for small models
    c.steps = 2_000_000  # the paper's "4B steps", read as 4 billion clips
    c.mesh.fsdp = 16  # weights and optimizer state in 16 parts; with fewer devices, in as many parts as devices
    return c

"""A small RVM for a CPU: 48 x 48 pixels, patch 8, 4 source and 2 target frames. It trains in minutes, not days.

    rvm train --config configs/tiny.py --workdir runs/tiny --config.data.path=videos

`make demo` trains it on rendered videos. Sizes and schedule are ours; the paper does not have a model of this size.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 5000
    c.batch_size = 8
    c.model.size = 'tiny'
    c.model.precision = 'float32'
    c.model.mask_ratio = 0.9
    c.model.remat = 'none'
    c.model.unroll = 'true'
    c.data.image_size = 48
    c.data.num_target = 2
    c.data.clip_frames = 16
    c.data.min_gap = 1
    c.data.max_gap = 7
    c.data.crop_area = (0.5, 1.0)
    c.data.num_workers = 1
    c.optim.peak_lr = 2e-3
    c.log.every = 100
    c.log.eval_every = 2000
    c.log.images_every = 2000
    c.checkpoint.every = 1000
    return c

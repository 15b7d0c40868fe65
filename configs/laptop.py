"""An RVM for a CPU and two days: 80 x 80 pixels, patch 8, width 128, a million clips.

    rvm train --config configs/laptop.py --workdir runs/laptop --config.data.path=VIDEOS

Between `tiny`, which is for a look, and S, which wants a GPU. Sizes and schedule are ours. Stop and resume it as you
like. With a GPU take configs/one_gpu.py.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 60_000
    c.batch_size = 16
    c.model.size = 'mini'
    c.model.precision = 'float32'
    c.model.mask_ratio = 0.9
    c.model.remat = 'none'
    c.model.unroll = 'true'
    c.data.image_size = 80
    c.data.num_target = 2
    c.data.clip_frames = 24
    c.data.min_gap = 1
    c.data.max_gap = 16
    c.data.num_workers = 1
    c.optim.peak_lr = 1e-3
    c.log.every = 100
    c.log.eval_every = 2000
    c.log.images_every = 2000
    c.checkpoint.every = 1000
    return c

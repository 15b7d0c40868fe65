"""Freezing, for a CPU: the image encoder of the tiny model that `make demo` trains, with a fresh core.

    rvm train --config configs/frozen_tiny.py --workdir runs/frozen_tiny --config.data.path=runs/demo/videos/train \\
        --config.data.eval_path=runs/demo/videos/held_out --config.model.encoder_path=runs/demo/export

Other cores: --config.model.core=mamba, mambamix, gmmix or self_attention. A small image encoder in a Hugging Face
folder works too: --config.model.encoder=dinov2, say, 64 wide, patches that divide 48 pixels. Schedule as in tiny.py.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 4000
    c.batch_size = 8
    c.model.size = 'tiny'
    c.model.encoder = 'rvm'
    c.model.precision = 'float32'
    c.model.mask_ratio = 0.9
    c.model.remat = 'none'
    c.model.unroll = True
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

"""A frozen encoder on a CPU: the image encoder of the tiny model that `make demo` trains, with a fresh core.

    rvm train --config configs/frozen_tiny.py --workdir runs/frozen_tiny --config.data.path=runs/demo/videos/train \\
        --config.data.eval_path=runs/demo/videos/held_out --config.model.encoder_path=runs/demo/export

For other cores, set --config.model.core=mamba, mambamix, gmmix or self_attention. A small image encoder in a Hugging
Face folder works too, for example --config.model.encoder=dinov2, if its width is 64 and its patch size divides 48
pixels. The schedule is that of tiny.py.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.load('configs/tiny.py')
    c.model.encoder = 'rvm'
    return c

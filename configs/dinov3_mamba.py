"""A frozen DINOv3 and a temporal core that is pre-trained on your clips: four Mamba layers, each token by itself.

    rvm train --config configs/dinov3_mamba.py --workdir runs/dinov3_mamba --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

S and B: --config.model.size=s and b, with the weights of that size. The cheapest of the four: no token sees another
after the encoder. Architecture as in arXiv 2605.19137, which trains the core with labels; this trains it by RVM's
masked reconstruction. Batch, steps and learning rate are ours, for one GPU, and not tuned at this size.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.load('configs/dinov3_rvmrnn.py')
    c.model.core = 'mamba'
    return c

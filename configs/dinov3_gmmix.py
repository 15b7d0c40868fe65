"""A frozen DINOv3 encoder and a temporal core, pre-trained on your clips: MambaMix with a gate around each Mamba layer.

    rvm train --config configs/dinov3_gmmix.py --workdir runs/dinov3_gmmix --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

For S or B, set --config.model.size=s or b and use the weights of that size. In the published comparison (trained with
labels), this core is the best of the four on average. The architecture is that of arXiv 2605.19137, which trains the
core with labels; here it is trained by RVM's masked reconstruction. Batch size, steps and learning rate are ours, for
one GPU; they are not tuned.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.load('configs/dinov3_rvmrnn.py')
    c.model.core = 'gmmix'
    return c

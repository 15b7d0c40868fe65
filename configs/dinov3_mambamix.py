"""A frozen DINOv3 encoder and a temporal core, pre-trained on your clips: four spatial blocks, each with a Mamba layer.

    rvm train --config configs/dinov3_mambamix.py --workdir runs/dinov3_mambamix --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

For S or B, set --config.model.size=s or b and use the weights of that size. Attention works within each frame, and the
recurrence works over frames. The architecture is that of arXiv 2605.19137, which trains the core with labels; here it
is trained by RVM's masked reconstruction. Batch size, steps and learning rate are ours, for one GPU, and not tuned.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.load('configs/dinov3_rvmrnn.py')
    c.model.core = 'mambamix'
    return c

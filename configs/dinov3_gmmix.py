"""A frozen DINOv3 and a temporal core that is pre-trained on your clips: MambaMix with a gate around each Mamba layer.

    rvm train --config configs/dinov3_gmmix.py --workdir runs/dinov3_gmmix --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

S and B: --config.model.size=s and b, with the weights of that size. The best of the four on average in the published
comparison (training with labels). Architecture as in arXiv 2605.19137, which trains the core with labels; this trains
it by RVM's masked reconstruction. Batch, steps and learning rate are ours, for one GPU, and not tuned at this size.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.load('configs/dinov3_rvmrnn.py')
    c.model.core = 'gmmix'
    return c

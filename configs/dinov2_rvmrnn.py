"""A frozen DINOv2 and RVM's own core, pre-trained on your clips; its weights are free to download.

    rvm train --config configs/dinov2_rvmrnn.py --workdir runs/dinov2_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov2-large

Its patches are 14 pixels: 224 pixels make the 16 x 16 grid that RVM has. Other sizes: --config.model.size=s and b,
with the weights of that size. Batch, steps and learning rate are ours, for one GPU, and not tuned at this size.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 100_000
    c.batch_size = 64
    c.model.size = 'l'
    c.model.encoder = 'dinov2'
    c.data.image_size = 224
    c.optim.peak_lr = 3e-4
    return c

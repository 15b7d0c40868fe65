"""A frozen DINOv2 encoder with RVM's own core, pre-trained on your clips. Its weights are free to download.

    rvm train --config configs/dinov2_rvmrnn.py --workdir runs/dinov2_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov2-large

Its patches are 14 pixels wide, so 224 pixels give the 16 x 16 grid of RVM. For other sizes, set --config.model.size=s
or b and use the weights of that size. Batch size, steps and learning rate are ours, for one GPU; they are not tuned.
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

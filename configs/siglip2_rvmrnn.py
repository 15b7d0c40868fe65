"""A frozen SigLIP 2 encoder with RVM's own core, pre-trained on your clips. Its weights are free to download.

    rvm train --config configs/siglip2_rvmrnn.py --workdir runs/siglip2_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=siglip2-large-patch16-256

It does not have a CLS token: every token of the model is a patch. For size B, set --config.model.size=b and use the
weights of that size. Batch size, steps and learning rate are ours, for one GPU; they are not tuned.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 100_000
    c.batch_size = 64
    c.model.size = 'l'
    c.model.encoder = 'siglip2'
    c.optim.peak_lr = 3e-4
    return c

"""A frozen SigLIP 2 and RVM's own core, pre-trained on your clips; its weights are free to download.

    rvm train --config configs/siglip2_rvmrnn.py --workdir runs/siglip2_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=siglip2-large-patch16-256

It has no CLS token: every token of the model is a patch. Other sizes: --config.model.size=b, with the weights of that
size. Batch, steps and learning rate are ours, for one GPU, and not tuned at this size.
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

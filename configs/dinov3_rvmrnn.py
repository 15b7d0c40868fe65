"""A frozen DINOv3 and a temporal core that is pre-trained on your clips: RVM's own Transformer-GRU core.

    rvm train --config configs/dinov3_rvmrnn.py --workdir runs/dinov3_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

S and B: --config.model.size=s and b, with the weights of that size. Its state is one vector a token, the smallest of
the four by far. With --config.init_from=RVM.npz it starts from the released core of the same width (and the decoder).
Architecture as in arXiv 2605.19137, which trains the core with labels; this trains it by RVM's masked reconstruction.
Batch, steps and learning rate are ours, for one GPU, and not tuned at this size.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.steps = 100_000
    c.batch_size = 64
    c.model.size = 'l'
    c.model.encoder = 'dinov3'
    c.model.core = 'rvmrnn'
    c.optim.peak_lr = 3e-4
    return c

"""A frozen DINOv3 encoder and a temporal core, pre-trained on your clips: RVM's own Transformer-GRU core.

    rvm train --config configs/dinov3_rvmrnn.py --workdir runs/dinov3_rvmrnn --config.data.path=VIDEOS \\
        --config.model.encoder_path=dinov3-vitl16-pretrain-lvd1689m

For S or B, set --config.model.size=s or b and use the weights of that size. The state is one vector per token, by far
the smallest of the four. With --config.init_from=RVM.npz, training starts from the released core of the same width
(and the decoder). The architecture is that of arXiv 2605.19137, which trains the core with labels; here it is trained
by RVM's masked reconstruction. Batch size, steps and learning rate are ours, for one GPU; they are not tuned.
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

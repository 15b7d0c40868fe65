"""RVM-S as the text of the paper describes it; our default follows the released code, or our own choice, instead.

    rvm train --config configs/paper/rvm_s.py --workdir runs/s --config.data.path=VIDEOS --config.batch_size=64

Each line names its section of the paper. Where the paper contradicts itself, the default stays: the order of the blocks
(the text and Table 6 against Listing 2), the biases of the gates (the equations against Listing 1) and the first source
frame (supplement 7 against the main text). Weights of this recipe cannot be written in the released layout, because
that has the norm on the state and the delta embedding.

RVM-L: add --config.model.size=l --config.optim.peak_lr=6e-4 --config.mesh.fsdp=16.
"""

from rvm_jax import config


def get_config():
    """The recipe."""
    c = config.default()
    c.model.size = 's'
    c.model.state_norm = False  # equations of section 3, Listing 1
    c.model.delta_embedding = False  # the paper does not mention it
    c.data.crop_level = 'frame'  # supplement 7: "frame-level"
    c.data.resize = 'bicubic'  # supplement 7
    return c

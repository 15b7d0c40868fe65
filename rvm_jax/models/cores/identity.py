"""No core: an image encoder by itself, frame by frame."""

import jax.numpy as jnp
from flax import nnx


class Identity(nnx.Module):
    """output = e, the tokens of the frame; there are no parameters and the state is ()."""

    is_streaming = True

    def init_state(self, batch, tokens):
        """Nothing."""
        return ()

    def step(self, tokens_BMD, state):
        """One frame: its tokens as float32 and ()."""
        return tokens_BMD.astype(jnp.float32), ()

    def scan(self, tokens_BTMD, state=None, learning=None):
        """All frames: their tokens as float32 and ()."""
        return tokens_BTMD.astype(jnp.float32), ()

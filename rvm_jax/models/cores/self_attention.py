"""The paper's alternative to recurrence: all frames attend to each other at once (RVM, Table 3b, supplement 9)."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.positions import sincos_table


class SelfAttention(nnx.Module):
    """Pre-norm blocks over the tokens of all frames of a window, x = [e_1, ..., e_T]; output = LN(blocks(x)).

    The prefix tokens of every frame are kept. Nothing is carried: the state is () and each call of `scan` is a
    window by itself. time_code adds a sine-cosine code of the frame's number to its tokens, for encoders that see
    one frame at a time.
    """

    is_streaming = False

    def __init__(self, *, width, depth, heads, head_dim, mlp, gelu, time_code, execution, rngs):
        self.tokens_dtype, self.time_code = execution.precision.tokens, time_code

        def make_block(rngs):
            return layers.Block(width, heads, head_dim, mlp, gelu=gelu, execution=execution, rngs=rngs)

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, jnp.float32, rngs=rngs)

    def init_state(self, batch, tokens):
        """Nothing."""
        return ()

    def step(self, tokens_BMD, state):
        """A window of one frame: features_BMD float32 and ()."""
        features_BTMD, state = self.scan(tokens_BMD[:, None], state)
        return features_BTMD[:, 0], state

    def scan(self, tokens_BTMD, state=None, learning=None, block=None):
        """One window of T frames: features_BTMD float32 and (). It drops nothing, learning or not.

        With block, features are those after so many blocks, before the norm.
        """
        frames, _, width = tokens_BTMD.shape[1:]
        if self.time_code:
            tokens_BTMD = tokens_BTMD + sincos_table(frames, width)[:, None]
        x_BKD = rearrange(tokens_BTMD.astype(self.tokens_dtype), 'b t m d -> b (t m) d')
        if block is None:
            x_BKD = self.norm(self.layers(x_BKD))
        elif block:
            x_BKD = self.layers.tapped(x_BKD, (block - 1,))[0]
        return rearrange(x_BKD.astype(jnp.float32), 'b (t m) d -> b t m d', t=frames), ()

"""The Mamba core: every token carries its own memory through the frames, tokens do not mix (arXiv 2605.19137)."""

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.cores.selective_scan import MambaState, SelectiveScan
from rvm_jax.models.dropout import dropout

EPSILON = 1e-5  # of every norm in the Mamba cores, PyTorch's default


class MambaCore(nnx.Module):
    """Layers that carry a MambaState each, then a norm on the features alone; each layer takes the whole clip.

    make_block(rngs) gives a layer, called with (x_BTMD, state, learning). State: a MambaState with an axis of layers
    in front, float32.
    """

    is_streaming = True

    def __init__(self, make_block, *, width, depth, d_state, d_conv, expand, execution, rngs):
        self.tokens_dtype = execution.precision.tokens
        self.depth, self.recent, self.d_state, self.inner = depth, d_conv - 1, d_state, expand * width
        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.output_norm = layers.layer_norm(width, jnp.float32, epsilon=EPSILON, rngs=rngs)

    def init_state(self, batch, tokens):
        """Zeros; tokens_BMD or tokens_BTMD gives M."""
        return jax.tree.map(lambda x: jnp.zeros((self.depth, *x.shape)), self._first(batch, tokens.shape[-2]))

    def _first(self, batch, count):
        """The zeros of one layer."""
        return MambaState(
            jnp.zeros((batch, self.recent, count, self.inner)), jnp.zeros((batch, count, self.d_state, self.inner))
        )

    def step(self, tokens_BMD, state):
        """One frame: features_BMD float32 and the next state."""
        features_BTMD, state = self.scan(tokens_BMD[:, None], state)
        return features_BTMD[:, 0], state

    def scan(self, tokens_BTMD, state=None, learning=None):
        """All frames in order: features_BTMD float32 and the last state; equals `step` by `step`."""

        def apply(block, x_BTMD, item):
            state, number = item
            if state is None:  # made layer by layer: the zeros of all at once are gigabytes for a batch of large clips
                state = self._first(len(x_BTMD), x_BTMD.shape[2])
            return block(x_BTMD, state, learning and learning.fold_in(number))

        x_BTMD = tokens_BTMD.astype(self.tokens_dtype)
        x_BTMD, state = self.layers.fold(apply, x_BTMD, (state, jnp.arange(self.depth)))
        return self.output_norm(x_BTMD), state


class MambaBlock(nnx.Module):
    """x + dropout(Mamba(LN(x)))."""

    def __init__(self, width, *, d_state, d_conv, expand, dropout, execution, rngs):
        self.dropout = dropout
        self.norm = layers.layer_norm(width, execution.precision.block, epsilon=EPSILON, rngs=rngs)
        self.mamba = SelectiveScan(width, d_state=d_state, d_conv=d_conv, expand=expand, execution=execution, rngs=rngs)

    def __call__(self, x_BTMD, state, learning):
        """Returns (B, T, M, D) and the next state."""
        y_BTMD, state = self.change(x_BTMD, state, learning)
        return x_BTMD + y_BTMD, state

    def change(self, x_BTMD, state, learning):
        """What the block adds to x, and the next state."""
        y_BTMD, state = self.mamba(self.norm(x_BTMD), state)
        return dropout(y_BTMD, self.dropout, learning), state


class Mamba(MambaCore):
    """S layers of x <- x + dropout(Mamba(LN(x))), see SelectiveScan; output = LN(x)."""

    def __init__(self, *, width, depth, d_state=16, d_conv=4, expand=2, dropout, execution, rngs):
        sizes = {'d_state': d_state, 'd_conv': d_conv, 'expand': expand}

        def make_block(rngs):
            return MambaBlock(width, **sizes, dropout=dropout, execution=execution, rngs=rngs)

        super().__init__(make_block, width=width, depth=depth, **sizes, execution=execution, rngs=rngs)

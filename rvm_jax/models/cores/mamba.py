"""The Mamba core: every token carries its own memory through the frames, tokens do not mix (arXiv 2605.19137)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.block_shapes import Blocks, Recurrence
from rvm_jax.models.cores.core import Core
from rvm_jax.models.cores.selective_scan import MambaState, SelectiveScan
from rvm_jax.models.dropout import TrainContext, dropout
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture

EPSILON = 1e-5  # of every norm in the Mamba cores, PyTorch's default
D_STATE, D_CONV, EXPAND = 16, 4, 2  # of all Mamba cores that a config names, as released


class MambaCore(Core):
    """Layers that carry a MambaState each, then a norm on the features alone; each layer takes the whole clip.

    make_block(rngs) gives a layer, called with (x_BTMD, state, learning). State: a MambaState with an axis of layers
    in front, float32.
    """

    sizes: ClassVar = {'s': (4, 16), 'b': (4, 16), 'l': (4, 16), 'h': (4, 16), 'tiny': (2, 4),
                      'mini': (3, 8)}  # arXiv 2605.19137; small ones ours  # fmt: skip

    def __init__(self, make_block, *, width, depth, d_state, d_conv, expand, execution, rngs):
        self.tokens_dtype = execution.precision.tokens
        self.depth, self.recent, self.d_state, self.inner = depth, d_conv - 1, d_state, expand * width
        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.output_norm = layers.layer_norm(width, jnp.float32, epsilon=EPSILON, rngs=rngs)

    def init_state(self, batch: int, tokens: jax.Array | jax.ShapeDtypeStruct) -> MambaState:
        """Zeros; tokens_BMD or tokens_BTMD gives M."""
        return jax.tree.map(lambda x: jnp.zeros((self.depth, *x.shape)), self._first(batch, tokens.shape[-2]))

    def _first(self, batch, count):
        """The zeros of one layer."""
        return MambaState(
            jnp.zeros((batch, self.recent, count, self.inner)), jnp.zeros((batch, count, self.d_state, self.inner))
        )

    def scan(
        self, tokens_BTMD: jax.Array, state: MambaState | None = None, learning: TrainContext | None = None
    ) -> tuple[jax.Array, MambaState]:
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

    def __call__(
        self, x_BTMD: jax.Array, state: MambaState, learning: TrainContext | None
    ) -> tuple[jax.Array, MambaState]:
        """Returns (B, T, M, D) and the next state."""
        y_BTMD, state = self.change(x_BTMD, state, learning)
        return x_BTMD + y_BTMD, state

    def change(
        self, x_BTMD: jax.Array, state: MambaState, learning: TrainContext | None
    ) -> tuple[jax.Array, MambaState]:
        """What the block adds to x, and the next state."""
        y_BTMD, state = self.mamba(self.norm(x_BTMD), state)
        return dropout(y_BTMD, self.dropout, learning), state


class Mamba(MambaCore):
    """S layers of x <- x + dropout(Mamba(LN(x))), see SelectiveScan; output = LN(x)."""

    def __init__(self, *, width, depth, d_state=D_STATE, d_conv=D_CONV, expand=EXPAND, dropout, execution, rngs):
        sizes = {'d_state': d_state, 'd_conv': d_conv, 'expand': expand}

        def make_block(rngs):
            return MambaBlock(width, **sizes, dropout=dropout, execution=execution, rngs=rngs)

        super().__init__(make_block, width=width, depth=depth, **sizes, execution=execution, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> Mamba:
        """Of the sizes and the dropout of arch."""
        return cls(width=arch.width, depth=arch.core_layers, dropout=arch.core_dropout, execution=execution, rngs=rngs)

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """Each layer once, over the tokens of all frames."""
        recurrence = Recurrence(num_tokens, EXPAND * arch.width, D_STATE)
        return Blocks(arch.core_layers, frames * num_tokens, arch.width, 0, (), recurrence=recurrence)

"""The MambaMix core: tokens of a frame attend to each other, then each goes through time (arXiv 2605.19137)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
from einops import rearrange
from flax import nnx

from rvm_jax.models import derivatives, layers
from rvm_jax.models.block_shapes import Attention, Blocks, Recurrence
from rvm_jax.models.cores.mamba import D_CONV, D_STATE, EPSILON, EXPAND, MambaBlock, MambaCore
from rvm_jax.models.cores.selective_scan import MambaState
from rvm_jax.models.dropout import TrainContext, dropout
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class SpatialBlock(nnx.Module):
    """Pre-norm transformer block over the tokens of a frame, exact GELU, MLP of 4 x width.

    In training it drops a share `dropout` of activations and outputs of the MLP, and whole frames of either residual
    (stochastic depth). The release also drops attention weights, which no fused attention can: left out.
    """

    def __init__(self, width, heads, *, dropout, execution, rngs):
        dtype = execution.precision.block
        self.dropout = dropout
        self.attention_norm = layers.layer_norm(width, dtype, epsilon=EPSILON, rngs=rngs)
        self.attention = layers.Attention(width, heads, width // heads, execution=execution, rngs=rngs)
        self.mlp_norm = layers.layer_norm(width, dtype, epsilon=EPSILON, rngs=rngs)
        self.mlp = layers.MLP(width, 4 * width, gelu='erf', rngs=rngs)

    def __call__(self, x_BTMD: jax.Array, learning: TrainContext | None) -> jax.Array:
        """Returns (B, T, M, D)."""
        places = [learning and learning.fold_in(place) for place in range(4)]
        y = rearrange(self.attention_norm(x_BTMD), 'b t m d -> (b t) m d')
        y_BTMD = rearrange(self.attention(y, y), '(b t) m d -> b t m d', b=len(x_BTMD))
        x_BTMD = derivatives.kept(x_BTMD + dropout(y_BTMD, self.dropout, places[0], axes=1))
        hidden = derivatives.gelu(derivatives.kept(self.mlp.dense_in(self.mlp_norm(x_BTMD))), False)
        y_BTMD = self.mlp.dense_out(dropout(hidden, self.dropout, places[1]))
        y_BTMD = dropout(y_BTMD, self.dropout, places[2])
        return x_BTMD + dropout(y_BTMD, self.dropout, places[3], axes=1)


class MixBlock(nnx.Module):
    """A SpatialBlock on every frame, then a MambaBlock over the frames."""

    def __init__(self, width, heads, *, dropout, execution, rngs, **sizes):
        self.spatial = SpatialBlock(width, heads, dropout=dropout, execution=execution, rngs=rngs)
        self.temporal = MambaBlock(width, dropout=dropout, execution=execution, rngs=rngs, **sizes)

    def __call__(
        self, x_BTMD: jax.Array, state: MambaState, learning: TrainContext | None
    ) -> tuple[jax.Array, MambaState]:
        """Returns (B, T, M, D) and the next state."""
        x_BTMD = derivatives.kept(self.spatial(x_BTMD, learning))
        return self.temporal(x_BTMD, state, learning and learning.fold_in(4))


class MambaMix(MambaCore):
    """Layers of z = Spatial(x), x <- z + dropout(Mamba(LN(z))); output = LN(x)."""

    block = MixBlock

    def __init__(
        self, *, width, depth, heads, d_state=D_STATE, d_conv=D_CONV, expand=EXPAND, dropout, execution, rngs
    ):  # fmt: skip
        sizes = {'d_state': d_state, 'd_conv': d_conv, 'expand': expand}

        def make_block(rngs):
            return self.block(width, heads, **sizes, dropout=dropout, execution=execution, rngs=rngs)

        super().__init__(make_block, width=width, depth=depth, **sizes, execution=execution, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> MambaMix:
        """Of the sizes and the dropout of arch."""
        return cls(
            width=arch.width,
            depth=arch.core_layers,
            heads=arch.core_heads,
            dropout=arch.core_dropout,
            execution=execution,
            rngs=rngs,
        )

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """Each layer once, over the tokens of all frames: attention within a frame, then Mamba over the frames."""
        attention = Attention(frames, num_tokens, num_tokens, arch.core_heads, arch.core_head_dim)
        recurrence = Recurrence(num_tokens, EXPAND * arch.width, D_STATE)
        return Blocks(
            arch.core_layers, frames * num_tokens, arch.width, 4 * arch.width, (attention,), recurrence=recurrence
        )

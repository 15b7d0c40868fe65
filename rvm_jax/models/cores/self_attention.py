"""The paper's alternative to recurrence: all frames attend to each other at once (RVM, Table 3b, supplement 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.block_shapes import Attention, Blocks
from rvm_jax.models.cores.core import Core
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution
from rvm_jax.models.positions import sincos_table

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class SelfAttention(Core):
    """Pre-norm blocks over the tokens of all frames of a window, x = [e_1, ..., e_T]; output = LN(blocks(x)).

    The prefix tokens of every frame are kept. Nothing is carried: the state is () and each call of `scan` is a
    window by itself. time_code adds a sine-cosine code of the frame's number to its tokens, for encoders that see
    one frame at a time.
    """

    is_streaming = False
    # As many parameters, about, as the core that it replaces has (RVM, supplement 9, gives no number).
    sizes: ClassVar = {'s': (7, 6), 'b': (6, 12), 'l': (6, 16), 'h': (6, 16), 'tiny': (3, 2),
                      'mini': (5, 4)}  # fmt: skip

    def __init__(self, *, width, depth, heads, head_dim, mlp, gelu, time_code, execution, rngs):
        self.tokens_dtype, self.time_code = execution.precision.tokens, time_code

        def make_block(rngs):
            return layers.Block(width, heads, head_dim, mlp, gelu=gelu, execution=execution, rngs=rngs)

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, jnp.float32, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> SelfAttention:
        """With a code of time where the encoder sees frames one by one: positions of the trained ViT carry the time."""
        return cls(
            width=arch.width,
            depth=arch.core_layers,
            heads=arch.core_heads,
            head_dim=arch.core_head_dim,
            mlp=arch.core_mlp,
            gelu=arch.gelu,
            time_code=arch.is_frozen,
            execution=execution,
            rngs=rngs,
        )

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """Each layer once, over the tokens of all frames."""
        length = frames * num_tokens
        attention = Attention(1, length, length, arch.core_heads, arch.core_head_dim)
        return Blocks(arch.core_layers, length, arch.width, arch.core_mlp, (attention,))

    def init_state(self, batch: int, tokens: jax.Array | jax.ShapeDtypeStruct) -> tuple[()]:
        """Nothing."""
        return ()

    def scan(
        self, tokens_BTMD: jax.Array, state: Any = None, learning: TrainContext | None = None, block: int | None = None
    ) -> tuple[jax.Array, Any]:
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

"""The Transformer-GRU core of RVM: it carries a state, one vector a token, from frame to frame (RVM, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.block_shapes import Attention, Blocks
from rvm_jax.models.cores.core import Core
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class RVMRNN(Core):
    """Gated transformer core, e = encoder tokens of a frame, s = state, gates per token and channel:

    u = sigmoid(W_iu e + W_su s),  r = sigmoid(W_ir e + W_sr s)
    h = Transformer(query = e, key and value = r * LN(s))
    s' = (1 - u) * s + u * h,  output = s'

    As released: the gates read the raw state and have no bias, LN has a scale but no bias, s starts at zero.
    gate_bias is the paper's Listing 1, state_norm=False its equations. The state stays float32 in every precision.
    The PyTorch port (arXiv 2605.19137) has state_norm='affine', with a bias and a smaller epsilon, and output_norm: a
    LayerNorm on the output, not on the state.
    """

    def __init__(
        self, *, width, depth, heads, head_dim, mlp, gelu, block_order, gate_bias, state_norm, output_norm=False,
        execution, rngs,
    ):  # fmt: skip
        precision = execution.precision
        self.execution, self.tokens_dtype, self.num_layers = execution, precision.tokens, depth
        self.input_update = layers.Dense(width, width, use_bias=gate_bias, rngs=rngs)
        self.input_reset = layers.Dense(width, width, use_bias=gate_bias, rngs=rngs)
        self.state_update = layers.Dense(width, width, use_bias=gate_bias, rngs=rngs)
        self.state_reset = layers.Dense(width, width, use_bias=gate_bias, rngs=rngs)
        epsilon, is_affine = (1e-6, True) if state_norm == 'affine' else (1e-4, False)
        self.state_norm = (
            layers.layer_norm(width, precision.tokens, epsilon=epsilon, use_bias=is_affine, rngs=rngs)
            if state_norm
            else None
        )

        def make_block(rngs):
            return layers.CrossBlock(
                width, heads, head_dim, mlp, gelu=gelu, order=block_order, execution=execution, rngs=rngs
            )

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, precision.block, rngs=rngs)
        self.output_norm = layers.layer_norm(width, jnp.float32, epsilon=1e-5, rngs=rngs) if output_norm else None

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> RVMRNN:
        """With the switches of arch."""
        return cls(
            width=arch.width,
            depth=arch.core_layers,
            heads=arch.core_heads,
            head_dim=arch.core_head_dim,
            mlp=arch.core_mlp,
            block_order=arch.block_order,
            gate_bias=arch.gate_bias,
            state_norm=arch.state_norm,
            output_norm=arch.output_norm,
            gelu=arch.gelu,
            execution=execution,
            rngs=rngs,
        )

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """All layers once for each frame: attention to the state, and of the tokens to each other."""
        attention = Attention(1, num_tokens, num_tokens, arch.core_heads, arch.core_head_dim)
        return Blocks(frames * arch.core_layers, num_tokens, arch.width, arch.core_mlp, (attention, attention))

    def init_state(self, batch: int, tokens: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        """Zeros (B, M, D), float32; tokens_BMD or tokens_BTMD gives M and D."""
        return jnp.zeros((batch, *tokens.shape[-2:]), jnp.float32)

    def step(
        self, tokens_BMD: jax.Array, state_BMD: jax.Array, block: int | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """One frame: features_BMD float32 and the next state, which without an output norm are the same array.

        With block, features are what so many blocks of the transformer make of the tokens, before its norm. The state
        is the same.
        """
        raw_BMD = state_BMD.astype(self.tokens_dtype)
        update = jax.nn.sigmoid(self.input_update(tokens_BMD) + self.state_update(raw_BMD))
        reset = jax.nn.sigmoid(self.input_reset(tokens_BMD) + self.state_reset(raw_BMD))
        kv_BMD = reset * (raw_BMD if self.state_norm is None else self.state_norm(state_BMD))
        outputs_BGMD, tapped_BGMD = self._transform(tokens_BMD[:, None], kv_BMD, block)
        state_BMD = (1 - update) * state_BMD + update * self.norm(outputs_BGMD)[:, 0]
        if block is not None:
            return tapped_BGMD[:, 0].astype(jnp.float32), state_BMD
        return state_BMD if self.output_norm is None else self.output_norm(state_BMD), state_BMD

    def _transform(self, x_BGMD, kv_BMD, block):
        """After all blocks, and after `block` of them."""
        if not block:
            return self.layers(x_BGMD, kv_BMD), x_BGMD
        tapped = self.layers.tapped(x_BGMD, sorted({block - 1, self.num_layers - 1}), kv_BMD)
        return tapped[-1], tapped[0]

    def scan(
        self, tokens_BTMD: jax.Array, state: Any = None, learning: TrainContext | None = None, block: int | None = None
    ) -> tuple[jax.Array, Any]:
        """All frames in order: features_BTMD float32 and the last state; equals `step` by `step`.

        learning changes nothing: RVM drops nothing out.
        """
        if state is None:
            state = self.init_state(len(tokens_BTMD), tokens_BTMD)
        graphdef, params = nnx.split(self)

        def body(state_BMD, tokens_BMD):
            features_BMD, state_BMD = nnx.merge(graphdef, params).step(tokens_BMD, state_BMD, block)
            return state_BMD, features_BMD

        tokens_TBMD = jnp.moveaxis(tokens_BTMD, 1, 0)
        state, features_TBMD = jax.lax.scan(body, state, tokens_TBMD, unroll=bool(self.execution.unroll))
        return jnp.moveaxis(features_TBMD, 0, 1), state

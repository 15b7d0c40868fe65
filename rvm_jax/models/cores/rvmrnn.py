"""The Transformer-GRU core of RVM: it carries a state, one vector a token, from frame to frame (RVM, section 3.2)."""

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import layers


class RVMRNN(nnx.Module):
    """Gated transformer core, e = encoder tokens of a frame, s = state, gates per token and channel:

    u = sigmoid(W_iu e + W_su s),  r = sigmoid(W_ir e + W_sr s)
    h = Transformer(query = e, key and value = r * LN(s))
    s' = (1 - u) * s + u * h,  output = s'

    As released: the gates read the raw state and have no bias, LN has a scale but no bias, s starts at zero.
    gate_bias is the paper's Listing 1, state_norm=False its equations. The state stays float32 in every precision.
    The PyTorch port (arXiv 2605.19137) has state_norm='affine', with a bias and a smaller epsilon, and output_norm: a
    LayerNorm on the output, not on the state.
    """

    is_streaming = True

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

    def init_state(self, batch, tokens):
        """Zeros (B, M, D), float32; tokens_BMD or tokens_BTMD gives M and D."""
        return jnp.zeros((batch, *tokens.shape[-2:]), jnp.float32)

    def step(self, tokens_BMD, state_BMD, block=None):
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

    def scan(self, tokens_BTMD, state=None, learning=None, block=None):
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

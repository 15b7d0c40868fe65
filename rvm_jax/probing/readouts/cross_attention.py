"""The block of the depth decoder and the recurrent tracker: cross-attention only, queries and keys normed per head."""

import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.attention import attention
from rvm_jax.probing.readouts.attention import EXECUTION, shape_of_heads
from rvm_jax.probing.readouts.mlp import MLP


class CrossAttentionBlock(nnx.Module):
    """x = x + attention(norm(x), tokens);  x = x + MLP(norm(x)). Norms have scales only, tokens come as they are.

    qkv is the width of queries, keys and values over all heads ("improved transformer" of MooG).
    """

    def __init__(self, width, token_width, *, qkv, heads, hidden, rngs):
        head_shape = shape_of_heads(qkv, heads)
        self.attention_norm = scale_norm(width, rngs=rngs)
        self.query = layers.Dense(width, head_shape, use_bias=False, rngs=rngs)
        self.key = layers.Dense(token_width, head_shape, use_bias=False, rngs=rngs)
        self.value = layers.Dense(token_width, head_shape, use_bias=False, rngs=rngs)
        self.query_norm = nnx.RMSNorm(head_shape[1], epsilon=1e-6, rngs=rngs)
        self.key_norm = nnx.RMSNorm(head_shape[1], epsilon=1e-6, rngs=rngs)
        self.out = layers.Dense(head_shape, width, rngs=rngs)
        self.mlp_norm = scale_norm(width, rngs=rngs)
        self.mlp = MLP(width, hidden, width, gelu='tanh', rngs=rngs)

    def __call__(self, x_BQE, tokens_BMD):
        """Returns (B, Q, E); x may have B = 1 for queries that all clips share."""
        return self.read(x_BQE, *self.keys_and_values(tokens_BMD))

    def keys_and_values(self, tokens_BMD):
        """Both (B, M, H, d)."""
        return self.key_norm(self.key(tokens_BMD)), self.value(tokens_BMD)

    def read(self, x_BQE, key_BMHd, value_BMHd):
        """The block with keys and values that are there already."""
        query_BQHd = self.query_norm(self.query(self.attention_norm(x_BQE)))
        query_BQHd = jnp.broadcast_to(query_BQHd, (len(key_BMHd), *query_BQHd.shape[1:]))
        x_BQE = x_BQE + self.out(attention(query_BQHd, key_BMHd, value_BMHd, EXECUTION))
        return x_BQE + self.mlp(self.mlp_norm(x_BQE))


def scale_norm(width, *, epsilon=1e-6, rngs):
    """LayerNorm with a scale and no bias."""
    return layers.layer_norm(width, jnp.float32, epsilon=epsilon, use_bias=False, rngs=rngs)

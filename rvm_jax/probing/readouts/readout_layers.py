"""What several readouts are made of: Fourier features, an MLP, a cross-attention block, queries in chunks.

Readouts compute in float32 whatever dtype the features have.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import layers
from rvm_jax.models.attention import attention

EXECUTION = layers.Execution()
NUM_BASES = 16  # frequencies of the Fourier features
FLOATS_AT_ONCE = 2**27  # half a gigabyte


def fourier_features(x: jax.Array, num_bases: int = NUM_BASES, layout: str = 'frequency') -> jax.Array:
    """Sine and cosine of x * pi * 2^i, i = 0 .. num_bases - 1: (..., n) -> (..., 2 * n * num_bases), float32.

    x is in [0, 1] (queries) or [-1, 1] (pixels). Layout 'frequency' (4DS, MooG): all sines, then all cosines, with the
    coordinates of one frequency next to each other. Layout 'coordinate' (arXiv 2605.19137): for each coordinate its
    sines, then its cosines. The numbers are the same, in another order. The highest frequency is above 100,000, so half
    precision is never enough.
    """
    angles = x.astype(jnp.float32)[..., None, :] * (math.pi * 2.0 ** jnp.arange(num_bases))[:, None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-3)  # (..., 2, num_bases, n)
    if layout == 'coordinate':
        return rearrange(waves, '... s i n -> ... (n s i)')
    return rearrange(waves, '... s i n -> ... (s i n)')


class MLP(nnx.Module):
    """Dense, GELU ('tanh' approximation or exact 'erf'), Dense; any width to any other."""

    def __init__(self, inputs, hidden, outputs, *, gelu, rngs):
        self.approximate = gelu == 'tanh'
        self.dense_in = layers.Dense(inputs, hidden, rngs=rngs)
        self.dense_out = layers.Dense(hidden, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., inputs) -> (..., outputs)."""
        return self.dense_out(jax.nn.gelu(self.dense_in(x), approximate=self.approximate))


class QueryNet(nnx.Module):
    """Positions (..., n) in [0, 1] to queries (..., width): Fourier features, then two dense layers."""

    def __init__(self, coordinates, width, *, gelu='tanh', layout='frequency', rngs):
        self.layout = layout
        self.mlp = MLP(2 * coordinates * NUM_BASES, width, width, gelu=gelu, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., n) -> (..., width)."""
        return self.mlp(fourier_features(x, layout=self.layout))


class CrossAttentionBlock(nnx.Module):
    """x = x + attention(norm(x), tokens);  x = x + MLP(norm(x)). Norms have only a scale; tokens are not normed.

    Queries and keys are normed per head. qkv is the width of queries, keys and values over all heads. This is the
    "improved transformer" block of MooG; the depth decoder and the recurrent tracker use it.
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

    def __call__(self, x_BQE: jax.Array, tokens_BMD: jax.Array) -> jax.Array:
        """Returns (B, Q, E); x may have B = 1 if all clips share the queries."""
        return self.read(x_BQE, *self.keys_and_values(tokens_BMD))

    def keys_and_values(self, tokens_BMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values, each (B, M, H, d)."""
        return self.key_norm(self.key(tokens_BMD)), self.value(tokens_BMD)

    def read(self, x_BQE: jax.Array, key_BMHd: jax.Array, value_BMHd: jax.Array) -> jax.Array:
        """The block with keys and values that are already computed."""
        query_BQHd = self.query_norm(self.query(self.attention_norm(x_BQE)))
        query_BQHd = jnp.broadcast_to(query_BQHd, (len(key_BMHd), *query_BQHd.shape[1:]))
        x_BQE = x_BQE + self.out(attention(query_BQHd, key_BMHd, value_BMHd, EXECUTION))
        return x_BQE + self.mlp(self.mlp_norm(x_BQE))


def scale_norm(width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with a scale and no bias."""
    return layers.layer_norm(width, jnp.float32, epsilon=epsilon, use_bias=False, rngs=rngs)


def shape_of_heads(channels: int, heads: int) -> tuple[int, int]:
    """(heads, channels of each). UserError if the channels cannot be divided evenly."""
    if channels % heads:
        raise UserError(f'{heads} heads', f'do not divide {channels} channels evenly', 'choose a divisor')
    return heads, channels // heads


def by_chunks(read: Callable[[jax.Array], jax.Array], queries_BQE: jax.Array, floats_per_query: int) -> jax.Array:
    """read(queries_BqE) -> (b, q, K) for all queries, as many at once as memory allows.

    The result is exact, because queries of a readout do not see each other. floats_per_query: how many numbers `read`
    holds for one query, over all clips. Chunks run one after the other, and are computed again in the backward pass.
    B may be 1 if the queries are the same for all clips.
    """
    num_queries = queries_BQE.shape[1]
    num_chunks = math.ceil(num_queries / max(1, FLOATS_AT_ONCE // floats_per_query))
    if num_chunks <= 1:
        return read(queries_BQE)
    size = math.ceil(num_queries / num_chunks)
    padded_BQE = jnp.pad(queries_BQE, ((0, 0), (0, num_chunks * size - num_queries), (0, 0)))
    outputs = jax.lax.map(jax.checkpoint(read), rearrange(padded_BQE, 'b (c q) e -> c b q e', c=num_chunks))
    return rearrange(outputs, 'c b q k -> b (c q) k')[:, :num_queries]

"""Fused attention for TPUs: scores live and die in the chip's vector memory, forward and backward.

RVM's sequences are short (257 tokens a frame, 1028 for four source frames), so all keys and values of a clip fit there
at once and the softmax needs no running maximum, unlike in FlashAttention (arXiv 2205.14135). Going back, the weights
are computed again from queries and keys; nothing but those and the values is kept.

Arrays keep the layout of the projections, all heads side by side in the last axis, since a head of 32 to 80 channels
alone would fill a quarter to five eighths of a memory tile. A head is then picked by a mask over the 128-channel tiles
that it touches: products with zeros cost nothing on a matrix unit that is at least as deep as those tiles.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128  # channels in a memory tile
ROWS = 16  # queries in a memory tile of bfloat16
QUERIES_AT_ONCE = 256  # about; scores of this many queries and all keys are held for one head at a time
CHANNELS_AT_ONCE = 2**20  # keys x channels up to which all heads go together
MEMORY = 64 * 2**20  # bytes of vector memory that a kernel may use; chips before v5 have 16 MiB


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def pallas_attention(
    query_BQC: jax.Array, key_BKC: jax.Array, value_BKC: jax.Array, head_dim: int, interpret: bool = False
) -> jax.Array:
    """Softmax(query . key) . value of each head, (B, Q, C); C holds the heads one after the other.

    Scale the queries beforehand. interpret runs it on any device, slowly.
    """
    call, tiling = _kernel(_forward, query_BQC, key_BKC, head_dim, interpret, products=2)
    queries, keys = tiling
    return call(
        in_specs=[queries, keys, keys],
        out_specs=queries,
        out_shape=jax.ShapeDtypeStruct(query_BQC.shape, query_BQC.dtype),
    )(query_BQC, key_BKC, value_BKC)


def _save_inputs(query_BQC, key_BKC, value_BKC, head_dim, interpret):
    return pallas_attention(query_BQC, key_BKC, value_BKC, head_dim, interpret), (query_BQC, key_BKC, value_BKC)


def _backward_of(head_dim, interpret, saved, grad_BQC):
    query_BQC, key_BKC, value_BKC = saved
    call, (queries, keys) = _kernel(_backward, query_BQC, key_BKC, head_dim, interpret, products=5)
    sums = [pltpu.VMEM(keys.block_shape[1:], jnp.float32)] * 2
    return call(
        in_specs=[queries, keys, keys, queries],
        out_specs=[queries, keys, keys],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved],
        scratch_shapes=sums,
    )(query_BQC, key_BKC, value_BKC, grad_BQC)


pallas_attention.defvjp(_save_inputs, _backward_of)


def _kernel(body, query_BQC, key_BKC, head_dim, interpret, products):
    """A pallas_call over clips, groups of heads and blocks of queries, and its blocks of queries and of keys."""
    (batch, num_queries, channels), num_keys = query_BQC.shape, key_BKC.shape[1]
    blocks = max(1, round(num_queries / QUERIES_AT_ONCE))
    queries_at_once = _round_up(pl.cdiv(num_queries, blocks), ROWS)
    padded_keys = _round_up(num_keys, LANES)
    group = channels  # channels at once; fewer must be whole heads and whole tiles
    if padded_keys * channels > CHANNELS_AT_ONCE and channels % math.lcm(head_dim, LANES) == 0:
        group = math.lcm(head_dim, LANES)
    scores = batch * channels // head_dim * num_queries * num_keys
    item = query_BQC.dtype.itemsize
    call = functools.partial(
        pl.pallas_call,
        functools.partial(body, head_dim=head_dim, num_queries=num_queries, num_keys=num_keys),
        grid=(batch, channels // group, pl.cdiv(num_queries, queries_at_once)),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * head_dim,
            transcendentals=scores,
            bytes_accessed=(products // 2 + 1) * item * batch * (num_queries + num_keys) * channels,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'parallel', 'arbitrary'), vmem_limit_bytes=MEMORY
        ),
        interpret=interpret,
    )
    queries = pl.BlockSpec((1, queries_at_once, group), lambda b, g, q: (b, q, g))
    keys = pl.BlockSpec((1, padded_keys, group), lambda b, g, q: (b, 0, g))
    return call, (queries, keys)


def _forward(query_ref, key_ref, value_ref, out_ref, *, head_dim, num_queries, num_keys):
    del num_queries  # rows beyond the last query are computed from noise and thrown away
    for tiles, is_head_1C in _heads(query_ref.shape[2], head_dim):
        query_QC = jnp.where(is_head_1C, query_ref[0, :, tiles], 0)
        weights_QK, total_Q1 = _weights(query_QC, _rows(key_ref, tiles, num_keys), num_keys)
        value_KC = _rows(value_ref, tiles, num_keys)
        out_QC = _dot(weights_QK.astype(value_KC.dtype), value_KC, (1, 0)) / total_Q1
        # Tiles are shared by neighboring heads: each writes its own channels.
        out_ref[0, :, tiles] = jnp.where(is_head_1C, out_QC.astype(out_ref.dtype), out_ref[0, :, tiles])


def _backward(
    query_ref, key_ref, value_ref, grad_ref, grad_query_ref, grad_key_ref, grad_value_ref, grad_key_sum,
    grad_value_sum, *, head_dim, num_queries, num_keys,
):  # fmt: skip
    block, queries_at_once = pl.program_id(2), query_ref.shape[1]
    left = num_queries - block * queries_at_once

    @pl.when(block == 0)
    def _start():
        grad_key_sum[...] = jnp.zeros_like(grad_key_sum)
        grad_value_sum[...] = jnp.zeros_like(grad_value_sum)

    for tiles, is_head_1C in _heads(query_ref.shape[2], head_dim):
        query_QC = jnp.where(is_head_1C, _rows(query_ref, tiles, left), 0)
        grad_QC = jnp.where(is_head_1C, _rows(grad_ref, tiles, left), 0)
        key_KC, value_KC = _rows(key_ref, tiles, num_keys), _rows(value_ref, tiles, num_keys)
        weights_QK, total_Q1 = _weights(query_QC, key_KC, num_keys)
        weights_QK = weights_QK / total_Q1
        grad_weights_QK = _dot(grad_QC, value_KC, (1, 1))
        mean_Q1 = (weights_QK * grad_weights_QK).sum(1, keepdims=True)
        grad_scores_QK = (weights_QK * (grad_weights_QK - mean_Q1)).astype(key_KC.dtype)
        grad_query_QC = _dot(grad_scores_QK, key_KC, (1, 0)).astype(grad_query_ref.dtype)
        grad_query_ref[0, :, tiles] = jnp.where(is_head_1C, grad_query_QC, grad_query_ref[0, :, tiles])
        grad_key_sum[:, tiles] += _dot(grad_scores_QK, query_QC, (0, 0))
        grad_value_sum[:, tiles] += _dot(weights_QK.astype(grad_QC.dtype), grad_QC, (0, 0))

    @pl.when(block == pl.num_programs(2) - 1)
    def _finish():
        grad_key_ref[0] = grad_key_sum[...].astype(grad_key_ref.dtype)
        grad_value_ref[0] = grad_value_sum[...].astype(grad_value_ref.dtype)


def _heads(channels, head_dim):
    """For each head, the slice of whole tiles that it lies in, and a mask of its channels there."""
    for first in range(0, channels, head_dim):
        last = first + head_dim
        start, stop = first // LANES * LANES, min(_round_up(last, LANES), channels)
        channel_1C = start + jax.lax.broadcasted_iota(jnp.int32, (1, stop - start), 1)
        yield slice(start, stop), (channel_1C >= first) & (channel_1C < last)


def _rows(ref, tiles, count):
    """Rows of a block, those beyond the array zero: there it holds whatever was in memory."""
    x = ref[0, :, tiles]
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0) < count, x, 0)


def _weights(query_QC, key_KC, num_keys):
    """Exponentials of the scores, largest 1, and their sums."""
    scores_QK = _dot(query_QC, key_KC, (1, 1))
    is_key_1K = jax.lax.broadcasted_iota(jnp.int32, (1, key_KC.shape[0]), 1) < num_keys
    scores_QK = jnp.where(is_key_1K, scores_QK, -jnp.inf)
    weights_QK = jnp.exp(scores_QK - scores_QK.max(1, keepdims=True))
    return weights_QK, weights_QK.sum(1, keepdims=True)


def _dot(left, right, axes):
    dimensions = ((axes[0],), (axes[1],)), ((), ())
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def _round_up(number, multiple):
    return pl.cdiv(number, multiple) * multiple

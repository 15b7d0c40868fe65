"""The TPU kernel in interpret mode, where memory beyond an array reads as NaN, against plain array code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from rvm_jax.models import pallas_attention as module
from rvm_jax.models.pallas_attention import pallas_attention


def draw(batch, queries, keys, channels, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    lengths = queries, keys, keys, queries
    return [jnp.asarray(rng.standard_normal((batch, length, channels)) / 2, dtype) for length in lengths]


def plain(query_BQC, key_BKC, value_BKC, head_dim):
    query, key, value = (
        rearrange(x, 'b n (h d) -> b n h d', d=head_dim).astype(jnp.float32) for x in (query_BQC, key_BKC, value_BKC)
    )
    weights = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', query, key))
    return rearrange(jnp.einsum('bhqk,bkhd->bqhd', weights, value), 'b n h d -> b n (h d)')


def run(function, inputs, head_dim, *options):
    """(output, gradients of its product with a fixed array)."""
    *inputs, weights = inputs

    def weighted(*inputs):
        out = function(*inputs, head_dim, *options)
        return (out.astype(jnp.float32) * weights).sum(), out

    gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(*inputs)
    return [np.asarray(x, np.float64) for x in (out, *gradients)]


def check(shape, head_dim, dtype=jnp.float32, tolerance=1e-5):
    found = run(pallas_attention, draw(*shape, dtype), head_dim, True)
    for ours, expected in zip(found, run(plain, draw(*shape), head_dim), strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ('shape', 'head_dim'),
    [
        ((1, 257, 257, 128), 64),  # a frame; heads that share a tile
        ((1, 40, 130, 144), 48),  # heads that lie across tiles: the core of S
        ((1, 40, 130, 160), 80),  # the encoder of H
        ((1, 528, 300, 32), 32),  # four frames in the decoder: several blocks of queries
        ((2, 13, 130, 32), 16),  # fewer channels than a tile
    ],
)
def test_the_kernel_equals_plain_attention_and_its_gradients(shape, head_dim):
    check(shape, head_dim)


def test_in_half_precision_it_stays_within_its_rounding():
    check((1, 257, 257, 128), 64, jnp.bfloat16, 0.03)


def test_long_sequences_are_taken_a_few_heads_at_a_time(monkeypatch):
    monkeypatch.setattr(module, 'CHANNELS_AT_ONCE', 2**14)
    check((1, 60, 257, 256), 64)
    jaxpr = str(jax.make_jaxpr(lambda *x: pallas_attention(*x, 64, True))(*draw(1, 60, 257, 256)[:3]))
    assert 'grid=(1, 2, 1)' in jaxpr


def test_large_scores_do_not_overflow():
    query = jnp.full((1, 1, 16), 100.0)
    key, value = (
        jnp.stack([query[0], -query[0]], axis=1),
        jnp.stack([jnp.ones((1, 16)), jnp.full((1, 16), 2.0)], axis=1),
    )
    np.testing.assert_allclose(pallas_attention(query, key, value, 16, True), 1.0)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.models import attention as module
from rvm_jax.models.attention import attention
from rvm_jax.models.layers import PRECISIONS, Execution

SHAPES = (2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8)  # query, key, value: B, Q or K, H, d


def draw(dtype):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(2 * rng.normal(size=shape), dtype) for shape in SHAPES)


def run(precision, implementation, unroll=False):
    """(output, gradients of its weighted sum) of one implementation."""
    inputs = draw(PRECISIONS[precision].block)
    execution = Execution(PRECISIONS[precision], implementation, unroll=unroll)
    weights = np.random.default_rng(1).normal(size=SHAPES[0])

    def weighted(*inputs):
        out = attention(*inputs, execution)
        return (out.astype(jnp.float32) * weights).sum(), out

    gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(*inputs)
    assert all(gradient.dtype == x.dtype for gradient, x in zip(gradients, inputs, strict=True))
    return [np.asarray(x, np.float64) for x in (out, *gradients)]


def primitives(implementation, precision='float32', tokens=8, platform=''):
    """What an implementation is made of, without compiling it."""
    x = jax.ShapeDtypeStruct((1, tokens, 2, 8), PRECISIONS[precision].block)
    execution = Execution(PRECISIONS[precision], implementation, platform=platform)
    return str(jax.make_jaxpr(functools.partial(attention, execution=execution))(x, x, x))


def test_it_is_softmax_of_scaled_products_times_values():
    query, key, value = (np.asarray(x, np.float64) for x in draw(jnp.float32))
    logits = np.einsum('bqhd,bkhd->bhqk', query, key) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum('bhqk,bkhd->bqhd', weights, value)
    np.testing.assert_allclose(run('float32', 'xla')[0], expected, atol=1e-5)


@pytest.mark.parametrize('unroll', [False, True])
@pytest.mark.parametrize(('precision', 'tolerance'), [('float32', 1e-5), ('bf16', 0.03)])
def test_one_head_at_a_time_gives_the_same_numbers_and_gradients(precision, tolerance, unroll):
    exact = run('float32', 'xla')
    for found, plain, expected in zip(run(precision, 'by_head', unroll), run(precision, 'xla'), exact, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, plain / scale, atol=tolerance)
        np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)


@pytest.mark.parametrize(('precision', 'tolerance'), [('float32', 1e-5), ('bf16', 0.03)])
def test_the_tpu_kernel_gives_the_same_numbers_and_gradients(precision, tolerance):
    for found, expected in zip(run(precision, 'pallas'), run('float32', 'xla'), strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_on_a_tpu_bfloat16_and_whole_frames_take_the_kernel():
    assert 'pallas_call' in primitives('auto', 'bf16', tokens=257, platform='tpu')
    assert 'pallas_call' not in primitives('auto', 'bf16', tokens=257, platform='old tpu')  # too little fast memory
    assert 'pallas_call' not in primitives('auto', 'bf16', tokens=13, platform='tpu')
    assert 'pallas_call' not in primitives('auto', 'float32', tokens=257, platform='tpu')
    assert 'pallas_call' not in primitives('auto', 'official_mixed', tokens=257, platform='tpu')


@pytest.mark.skipif("__import__('jax').default_backend() != 'gpu'", reason='needs an NVIDIA GPU')
def test_the_fused_kernel_gives_the_same_numbers_and_gradients():
    for found, expected in zip(run('bf16', 'cudnn'), run('float32', 'xla'), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_large_scores_do_not_overflow():
    query = jnp.full((1, 2, 1, 8), 100.0)
    key = jnp.stack([query[0, 0], -query[0, 0]])[None]
    value = jnp.asarray([[[[1.0] * 8], [[2.0] * 8]]])
    for implementation in ('xla', 'by_head'):
        out = attention(query, key, value, Execution(implementation=implementation))
        np.testing.assert_allclose(out, 1.0)


def test_on_a_cpu_only_large_scores_are_taken_head_by_head():
    side = int(module.LARGE_SCORES**0.5)
    assert 'custom_vjp_call' not in primitives('auto', tokens=side)
    assert 'custom_vjp_call' in primitives('auto', tokens=side + 1)
    assert 'custom_vjp_call' in primitives('by_head')


def test_released_precision_is_never_computed_head_by_head():
    assert 'custom_vjp_call' not in primitives('by_head', 'official_mixed')


def test_logits_are_half_only_in_the_released_precision():
    assert 'bf16[1,2,8,8]' in primitives('xla', 'official_mixed')
    half, _, rest = primitives('xla', 'bf16').partition('exp')
    assert 'bf16[1,2,8,8]' not in half and 'bf16[1,2,8,8]' in rest  # weights alone go back to bfloat16

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as stablehlo
from jax.interpreters import mlir

from rvm_jax.models import cudnn_attention, layers
from rvm_jax.models.attention import attention
from rvm_jax.models.layers import PRECISIONS, Execution

FUSED = Execution(PRECISIONS['bf16'], 'cudnn', platform='gpu')
LENGTHS = [(257, 257), (13, 13), (5, 1028), (8, 16)]  # queries and keys; RVM's own are odd


def _scores(query_BQHd, key_BKHd, scale):
    return jnp.einsum('bqhd,bkhd->bhqk', query_BQHd, key_BKHd, preferred_element_type=jnp.float32) * scale


def _forward(query_BQHd, key_BKHd, value_BKHd, *_, scale, is_training, **__):
    scores_BHQK = _scores(query_BQHd, key_BKHd, scale)
    weights_BHQK = jax.nn.softmax(scores_BHQK, axis=-1).astype(value_BKHd.dtype)
    out_BQHd = jnp.einsum('bhqk,bkhd->bqhd', weights_BHQK, value_BKHd)
    return (out_BQHd, jax.nn.logsumexp(scores_BHQK, axis=-1)) if is_training else (out_BQHd,)


def _backward(query_BQHd, key_BKHd, value_BKHd, *others, scale, **_):
    log_total_BHQ, out_BQHd, grad_BQHd = others[7:]
    half = query_BQHd.dtype
    weights_BHQK = jnp.exp(_scores(query_BQHd, key_BKHd, scale) - log_total_BHQ[..., None])
    grad_weights_BHQK = jnp.einsum('bqhd,bkhd->bhqk', grad_BQHd, value_BKHd, preferred_element_type=jnp.float32)
    mean_BHQ = jnp.einsum('bqhd,bqhd->bhq', grad_BQHd.astype(jnp.float32), out_BQHd.astype(jnp.float32))
    grad_scores_BHQK = (weights_BHQK * (grad_weights_BHQK - mean_BHQ[..., None]) * scale).astype(half)
    return (
        jnp.einsum('bhqk,bkhd->bqhd', grad_scores_BHQK, key_BKHd),
        jnp.einsum('bhqk,bqhd->bkhd', grad_scores_BHQK, query_BQHd),
        jnp.einsum('bhqk,bqhd->bkhd', weights_BHQK.astype(half), grad_BQHd),
    )


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """JAX's primitives compute on this CPU what cuDNN's documentation says; where the library is missing, too."""
    for name, kernel in ((cudnn_attention.FORWARD, _forward), (cudnn_attention.BACKWARD, _backward)):
        lowering = mlir.lower_fun(kernel, multiple_results=True)
        mlir.register_lowering(getattr(stablehlo, name), lowering, platform='cpu')
    monkeypatch.setattr(stablehlo, 'check_cudnn_version', lambda: 91000)


def draw(queries, keys, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, length, 3, 16)), dtype) for length in (queries, keys, keys)]


def run(attend, inputs):
    """Output and gradients, as float64 of a size of about 1."""
    weights = np.random.default_rng(1).normal(size=inputs[0].shape)

    def weighted(*inputs):
        out = attend(*inputs)
        return (out.astype(jnp.float32) * weights).sum(), out

    gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(*inputs)
    return [np.asarray(x, np.float64) / np.abs(np.asarray(x, np.float64)).max() for x in (out, *gradients)]


def plain(*inputs):
    return attention(*inputs, Execution(PRECISIONS['float32'], 'xla'))


@pytest.mark.parametrize(('queries', 'keys'), LENGTHS)
def test_odd_lengths_equal_plain_attention_and_its_gradients(queries, keys):
    inputs = draw(queries, keys)
    expected = run(plain, [x.astype(jnp.float32) for x in inputs])
    for found, exact in zip(run(lambda *x: attention(*x, FUSED), inputs), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=0.02)


@pytest.mark.parametrize(('queries', 'keys'), LENGTHS)
def test_padding_changes_neither_numbers_nor_gradients(queries, keys):
    inputs = draw(queries, keys, jnp.float32)
    found = run(lambda *x: cudnn_attention.padded(*x, implementation='xla'), inputs)
    for one, exact in zip(found, run(plain, inputs), strict=True):
        np.testing.assert_allclose(one, exact, atol=1e-5)


def test_without_the_primitives_of_jax_lengths_are_padded(monkeypatch):
    monkeypatch.setattr(cudnn_attention, '_stablehlo', lambda: None)
    program = str(jax.make_jaxpr(jax.grad(lambda *x: attention(*x, FUSED).astype(jnp.float32).sum()))(*draw(13, 257)))
    assert '2,16,3,16' in program and '2,264,3,16' in program
    assert program.count('dot_product_attention_bwd') >= 1


@pytest.mark.parametrize('implementation', ['cudnn', 'cudnn_padded'])
def test_attention_is_never_computed_again_going_back(implementation):
    execution = Execution(PRECISIONS['bf16'], implementation, 'dots', 'layers', 'gpu')

    def make(rngs):
        return layers.Block(32, 2, 16, 64, gelu='tanh', execution=execution, rngs=rngs)

    stack = layers.Stack(make, 3, execution=execution, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(stack)

    def loss(params, x):
        return nnx.merge(graphdef, params)(x).astype(jnp.float32).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((2, 5, 32), jnp.bfloat16)))
    assert program.count('dot_product_attention_fwd_wrapper[') == 1  # in the loop there, and not in that back
    assert program.count('dot_product_attention_bwd_wrapper[') == 1

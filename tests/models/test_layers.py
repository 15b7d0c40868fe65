import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.layers import PRECISIONS, Block, CrossBlock, Dense, Execution, Stack, layer_norm


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


def fill(module):
    """The module with every parameter drawn, so that biases and scales matter too."""
    graphdef, params = nnx.split(module)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(rng.normal(size=leaf.shape) * 0.5, leaf.dtype) for leaf in leaves]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, drawn))


def make(cls, execution=Execution(), order='cross_mlp_self'):  # noqa: B008 (frozen)
    more = {'order': order} if cls is CrossBlock else {}
    return lambda rngs: cls(8, 2, 4, 12, gelu='tanh', execution=execution, rngs=rngs, **more)


def cross_block(order='cross_mlp_self'):
    return fill(nnx.eval_shape(lambda: make(CrossBlock, order=order)(nnx.Rngs(0))))


def stack(execution):
    return fill(nnx.eval_shape(lambda: Stack(make(Block, execution), 3, execution=execution, rngs=nnx.Rngs(0))))


def run_stack(execution):
    """(output, gradients for parameters and input) of a stack of three blocks."""
    graphdef, params = nnx.split(stack(execution))

    def total(params, x):
        y = nnx.merge(graphdef, params)(x)
        return jnp.square(y).sum(), y

    gradients, y = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, draw(2, 5, 8))
    return jax.tree.leaves((y, gradients))


def test_dense_contracts_trailing_axes_in_the_dtype_of_its_input():
    dense = Dense((2, 3), (4, 5), rngs=nnx.Rngs(0))
    x = draw(7, 2, 3)
    np.testing.assert_allclose(dense(x), np.einsum('bij,ijkl->bkl', x, dense.kernel[...]), atol=1e-5)
    assert dense.kernel.dtype == jnp.float32 and dense(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_fresh_kernels_are_scaled_by_all_their_inputs():
    dense = Dense((10, 40), 200, rngs=nnx.Rngs(0))
    assert np.std(dense.kernel[...]) == pytest.approx(400**-0.5, rel=0.02)


def test_a_norm_rounds_its_result_alone():
    norm = fill(layer_norm(8, jnp.bfloat16, rngs=nnx.Rngs(0)))
    x = 100 + draw(3, 8)  # rounding the input first would lose most of it
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True)) * norm.scale[...] + norm.bias[...]
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(norm(x), np.float32), exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize('gelu', ['tanh', 'erf'])
def test_gelu_is_the_approximation_or_exact(gelu):
    mlp = layers.MLP(4, 6, gelu=gelu, rngs=nnx.Rngs(0))
    x = draw(3, 4)
    hidden = jax.nn.gelu(mlp.dense_in(x), approximate=gelu == 'tanh')
    np.testing.assert_allclose(mlp(x), mlp.dense_out(hidden), atol=1e-6)


def test_a_block_adds_attention_and_mlp_to_its_normalized_input():
    block = fill(make(Block)(nnx.Rngs(0)))
    x = draw(2, 5, 8)
    y = x + block.attention(block.attention_norm(x), block.attention_norm(x))
    np.testing.assert_allclose(block(x), y + block.mlp(block.mlp_norm(y)), atol=1e-5)


@pytest.mark.parametrize('order', ['cross_mlp_self', 'self_mlp_cross'])
def test_a_cross_block_runs_its_parts_in_order(order):
    block, x, kv = cross_block(order), draw(2, 1, 5, 8), draw(2, 7, 8)
    parts = {
        'cross': lambda y: block.cross_attention(block.cross_attention_norm(y), kv),
        'mlp': lambda y: block.mlp(block.mlp_norm(y)),
        'self': lambda y: block.attention(block.attention_norm(y), block.attention_norm(y)),
    }
    y = x[:, 0]
    for part in order.split('_'):
        y = y + parts[part](y)
    np.testing.assert_allclose(block(x, kv)[:, 0], y, atol=1e-5)


def test_groups_share_keys_and_values_but_do_not_see_each_other():
    block, x, kv = cross_block(), draw(2, 3, 5, 8), draw(2, 7, 8)
    together = block(x, kv)
    for clip, group in itertools.product(range(2), range(3)):
        alone = block(x[clip : clip + 1, group : group + 1], kv[clip : clip + 1])
        np.testing.assert_allclose(together[clip, group], alone[0, 0], atol=1e-5)


def test_a_stack_applies_its_blocks_one_after_the_other():
    model, x = stack(Execution()), draw(2, 5, 8)
    graphdef, stacked = nnx.split(model.blocks)
    y = x
    for i in range(3):
        y = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))(y)
    np.testing.assert_allclose(model(x), y, atol=1e-5)


def test_a_scanned_stack_compiles_one_block_for_any_depth():
    jaxpr = str(jax.make_jaxpr(stack(Execution()))(draw(2, 5, 8)))
    assert jaxpr.count('scan[') == 1 and jaxpr.count('tanh') == 1


@pytest.mark.parametrize(
    'execution',
    [Execution(unroll=True), Execution(remat='full'), Execution(remat='dots'), Execution(remat='dots', unroll=True)],
    ids=['unrolled', 'full', 'dots', 'dots unrolled'],
)
def test_unrolling_and_remat_change_no_number_and_no_gradient(execution):
    expected = run_stack(Execution())
    scale = max(np.abs(array).max() for array in expected)
    for found, array in zip(run_stack(execution), expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-4, atol=1e-6 * scale)


def test_recomputing_repeats_the_products_that_it_says():
    def products(remat):
        graphdef, params = nnx.split(stack(Execution(remat=remat)))
        gradient = jax.grad(lambda params, x: nnx.merge(graphdef, params)(x).sum())
        return str(jax.make_jaxpr(gradient)(params, draw(2, 5, 8))).count('dot_general[')

    kept_all = products('none')
    assert products('dots') == kept_all + 2  # the two products within attention
    assert products('full') == kept_all + 7  # all eight of a block but the last, whose result nothing needs


@pytest.mark.parametrize('name', PRECISIONS)
def test_a_stack_returns_the_dtype_that_came_in(name):
    execution = Execution(PRECISIONS[name])
    tokens = execution.precision.tokens
    assert jax.eval_shape(stack(execution), jax.ShapeDtypeStruct((2, 5, 8), tokens)).dtype == tokens


@pytest.mark.parametrize('use_bias', [True, False])
def test_the_norm_has_the_numbers_and_gradients_of_flax(use_bias):
    ours = fill(layer_norm(8, jnp.float32, use_bias=use_bias, rngs=nnx.Rngs(0)))
    theirs = fill(nnx.LayerNorm(8, use_bias=use_bias, rngs=nnx.Rngs(0)))

    def outputs(norm):
        graphdef, params = nnx.split(norm)

        def total(params, x):
            y = nnx.merge(graphdef, params)(x)
            return (y * draw(2, 5, 8) ** 2).sum(), y

        return jax.tree.leaves(jax.grad(total, (0, 1), has_aux=True)(params, 3 + draw(2, 5, 8)))

    for found, expected in zip(outputs(ours), outputs(theirs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_inlined_layers_write_only_the_blocks_asked_for():
    model, x = stack(Execution(unroll='layers')), draw(2, 5, 8)
    np.testing.assert_allclose(model.tapped(x, (0, 2)), stack(Execution()).tapped(x, (0, 2)), atol=1e-5)
    assert 'dynamic_update_slice' not in str(jax.make_jaxpr(lambda x: model.tapped(x, (0, 2)))(x))

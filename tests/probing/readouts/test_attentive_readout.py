import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.readouts import readout_layers
from rvm_jax.probing.readouts.attention import AttentionReadout, BoxReadout, PointReadout, blocks_to_frames
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.recognition import Recognition

SIZES = {'channels': 16, 'heads': 2}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw(*shape, seed=0):
    return jnp.asarray(noise(*shape, seed=seed))


def run(readout, *args):
    return np.asarray(jax.tree.leaves(nnx.jit(lambda readout, *args: readout(*args))(readout, *args))[0])


FEATURES_BTMD = draw(2, 4, 3, 8)


def build(make):
    return nnx.jit(make)()  # one program, where eager initialization compiles one an array


def randomized(readout):
    """Biases and scales away from 0 and 1, so that a test can see them."""
    params = nnx.to_pure_dict(nnx.state(readout))
    nnx.update(readout, jax.tree.map(lambda x: np.asarray(x) + 0.3 * noise(*x.shape, seed=x.size), params))
    return readout


def layer_norm(x, norm):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm.scale[...] + norm.bias[...]


def dense(x, layer):
    kernel, bias = np.float64(layer.kernel[...]), np.float64(layer.bias[...])
    inputs = math.prod(layer.in_shape)
    return x.reshape(*x.shape[:2], inputs) @ kernel.reshape(inputs, -1) + bias.reshape(-1)


def test_it_is_the_arithmetic_of_the_paper():
    readout = randomized(build(lambda: AttentionReadout(8, 5, num_queries=3, num_frames=4, **SIZES, rngs=nnx.Rngs(0))))
    x = layer_norm(np.float64(FEATURES_BTMD), readout.input_norm) + np.float64(readout.temporal_code[...])[:, None]
    x = x.reshape(2, 12, 8)
    query = np.broadcast_to(np.float64(readout.queries[...]), (2, 3, 2, 8))
    key, value = (dense(x, layer).reshape(2, 12, 2, 8) for layer in (readout.key, readout.value))
    weights = np.exp(np.einsum('bqhd,bkhd->bhqk', query, key) / np.sqrt(8))
    attended = np.einsum('bhqk,bkhd->bqhd', weights / weights.sum(-1, keepdims=True), value)
    token = query.reshape(2, 3, 16) + dense(attended, readout.out)
    hidden = dense(layer_norm(token, readout.mlp_norm), readout.mlp.dense_in)
    hidden = hidden * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    token = token + dense(hidden, readout.mlp.dense_out)
    np.testing.assert_allclose(run(readout, FEATURES_BTMD), dense(token, readout.head), atol=1e-4)


def test_it_computes_in_float32_whatever_the_features():
    readout = build(lambda: AttentionReadout(8, 5, num_queries=1, num_frames=4, **SIZES, rngs=nnx.Rngs(0)))
    half = FEATURES_BTMD.astype(jnp.bfloat16)
    np.testing.assert_array_equal(run(readout, half), run(readout, half.astype(jnp.float32)))


def test_the_time_code_tells_frames_apart_and_fits_other_lengths():
    def make(num_frames):
        return build(lambda: AttentionReadout(8, 5, num_queries=1, num_frames=num_frames, **SIZES, rngs=nnx.Rngs(0)))

    coded = randomized(make(4))
    assert np.abs(run(coded, FEATURES_BTMD[:, ::-1]) - run(coded, FEATURES_BTMD)).max() > 1e-2
    without = randomized(make(None))
    np.testing.assert_allclose(run(without, FEATURES_BTMD[:, ::-1]), run(without, FEATURES_BTMD), atol=1e-5)
    coded.temporal_code[...] = jnp.tile(jnp.arange(4.0)[:, None], (1, 8))
    np.testing.assert_allclose(coded._code(8)[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    np.testing.assert_allclose(coded._code(2)[:, 0], [0.5, 2.5], atol=1e-6)


def test_taking_turns_changes_neither_values_nor_gradients(monkeypatch):
    readout = randomized(build(lambda: AttentionReadout(8, 5, num_queries=7, num_frames=4, **SIZES, rngs=nnx.Rngs(0))))
    graphdef, params = nnx.split(readout)

    def everything():
        def objective(params, features):
            outputs = nnx.merge(graphdef, params)(features)
            return (outputs**2).mean(), outputs

        return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, FEATURES_BTMD)

    whole = everything()
    monkeypatch.setattr(readout_layers, 'FLOATS_AT_ONCE', 3 * 2 * (2 * 12 + 64))  # 3 of 7 queries
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, everything())


def largest_array(jaxpr):
    sizes = [math.prod(var.aval.shape) for eqn in jaxpr.eqns for var in eqn.outvars]
    inner = []
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')):
            value = getattr(value, 'jaxpr', value)
            inner += [largest_array(value)] if hasattr(value, 'eqns') else []
    return max([0, *sizes, *inner])


def test_depth_of_a_published_clip_is_read_in_chunks():
    task = Depth()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: task.readout(1024, 16, nnx.Rngs(0))))
    features = jax.ShapeDtypeStruct((4, 16, 197, 1024), jnp.float32)
    batch = {'depth_THW': jax.ShapeDtypeStruct((4, 16, 224, 224), jnp.float32)}
    step = jax.grad(lambda params, *args: task.loss(nnx.merge(graphdef, params), *args)[0])
    scores = 4 * 6272 * 16 * 16 * 197
    largest = largest_array(jax.make_jaxpr(step)(params, features, batch).jaxpr)
    assert largest <= readout_layers.FLOATS_AT_ONCE < scores / 8


def test_blocks_of_a_grid_are_row_major():
    outputs = np.arange(2 * 2 * 3 * 2 * 4 * 5).reshape(1, 12, 40)
    frames = np.asarray(blocks_to_frames(outputs, (2, 2, 3), (2, 4, 5)))
    assert frames.shape == (1, 4, 8, 15)
    query, inside = (1 * 2 + 0) * 3 + 2, (1 * 4 + 3) * 5 + 1  # block (1, 0, 2), value (1, 3, 1)
    assert frames[0, 3, 3, 11] == query * 40 + inside


HEADS = {
    'points': (lambda: PointReadout(8, 4, query_width=6, **SIZES, rngs=nnx.Rngs(1)), draw(2, 3, 2, seed=1)),
    'boxes': (lambda: BoxReadout(8, 4, query_width=6, **SIZES, rngs=nnx.Rngs(1)), draw(2, 3, 4, seed=1)),
}


@pytest.mark.parametrize('kind', HEADS)
def test_a_query_ignores_the_others_and_their_order(kind):
    make, queries = HEADS[kind]
    readout = randomized(build(make))
    found = run(readout, FEATURES_BTMD, queries)
    assert found.shape == (2, 3, 4, queries.shape[-1])
    np.testing.assert_allclose(run(readout, FEATURES_BTMD, queries[:, ::-1]), found[:, ::-1], atol=1e-5)
    changed = run(readout, FEATURES_BTMD, queries.at[:, 0].add(0.3))
    np.testing.assert_array_equal(changed[:, 1:], found[:, 1:])
    assert np.abs(changed[:, 0] - found[:, 0]).max() > 1e-3


def test_tiles_that_do_not_divide_a_clip_lose_no_frame():
    readout = build(lambda: PointReadout(8, 5, query_width=6, **SIZES, rngs=nnx.Rngs(1)))
    assert readout.tile_code.shape == (3, 6)
    tracks, visible, certain = nnx.jit(lambda readout, *args: readout(*args))(readout, draw(1, 5, 3, 8), draw(1, 2, 2))
    assert tracks.shape == (1, 2, 5, 2) and visible.shape == certain.shape == (1, 2, 5)
    with pytest.raises(ValueError, match='built for 5 frames got 4'):
        readout(FEATURES_BTMD, draw(2, 2, 2))


def test_boxes_are_y_first_inside_and_x_first_outside():
    readout = build(lambda: BoxReadout(8, 4, query_width=6, **SIZES, rngs=nnx.Rngs(1)))
    readout.readout.head.kernel[...] = jnp.zeros_like(readout.readout.head.kernel[...])
    readout.readout.head.bias[...] = jnp.arange(16.0)
    assert run(readout, FEATURES_BTMD, draw(2, 1, 4))[0, 0, 1].tolist() == [5, 4, 7, 6]


@pytest.mark.parametrize(
    'task',
    [
        Recognition(3, channels=16, heads=3), Points(heads=3), Points(streaming=True, heads=3),
        Points(recurrent=True, tracker_heads=3),
    ],
)  # fmt: skip
def test_heads_that_do_not_share_channels_evenly_are_refused(task):
    with pytest.raises(UserError, match=r'^3 heads: do not divide \d+ channels evenly'):
        nnx.eval_shape(lambda: task.readout(8, 4, nnx.Rngs(0)))

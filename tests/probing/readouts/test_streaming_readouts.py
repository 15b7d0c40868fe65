import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.probing.readouts import streaming

SIZES = {'channels': 16, 'heads': 2}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


FEATURES_BTMD, POINTS_BQ2 = draw(2, 5, 3, 8), draw(2, 4, 2, seed=1)
CORNERS_BQ2 = jax.nn.sigmoid(draw(2, 4, 2, seed=2))
BOXES_BQ4 = jnp.concatenate([CORNERS_BQ2 / 2, CORNERS_BQ2], axis=-1)
run = nnx.jit(lambda readout, *args: readout(*args))


def build(make):
    return nnx.jit(make)()  # one program, where eager initialization compiles one an array


READOUTS = {  # name -> (how to make it, queries, axis of time in what it gives)
    'classes': (lambda: streaming.FrameReadout(8, 7, **SIZES, rngs=nnx.Rngs(0)), (), 1),
    'depth': (
        lambda: streaming.FrameReadout(8, 7, num_queries=6, has_code=True, **SIZES, rngs=nnx.Rngs(0)),
        (),
        1,
    ),
    'points': (lambda: streaming.StreamingPoints(8, query_width=6, **SIZES, rngs=nnx.Rngs(0)), (POINTS_BQ2,), 2),
    'boxes': (lambda: streaming.StreamingBoxes(8, query_width=6, **SIZES, rngs=nnx.Rngs(0)), (BOXES_BQ4,), 2),
    'pose': (lambda: streaming.PoseHead(8, channels=16, hidden=6, log_scales=(0, -3), rngs=nnx.Rngs(0)), (), 1),
}


@functools.cache
def readout_of(kind):
    """(module, queries, axis of time)."""
    make, queries, time = READOUTS[kind]
    return build(make), queries, time


@pytest.mark.parametrize('kind', READOUTS)
def test_the_order_of_future_frames_cannot_change_the_past(kind):
    readout, queries, time = readout_of(kind)
    shuffled = FEATURES_BTMD[:, jnp.array([0, 1, 4, 2, 3])]
    found = zip(*(jax.tree.leaves(run(readout, x, *queries)) for x in (FEATURES_BTMD, shuffled)), strict=True)
    for before, after in ((np.moveaxis(a, time, 0), np.moveaxis(b, time, 0)) for a, b in found):
        assert len(before) == 5
        np.testing.assert_allclose(after[:2], before[:2], atol=1e-6)
        assert np.abs(after[2:] - before[2:]).max() > 1e-4


@pytest.mark.parametrize('kind', ['classes', 'depth', 'points', 'pose'])
def test_what_carries_nothing_on_gives_the_same_frame_by_frame(kind):
    readout, queries, time = readout_of(kind)
    whole = jax.tree.leaves(run(readout, FEATURES_BTMD, *queries))
    last = jax.tree.leaves(run(readout, FEATURES_BTMD[:, 4:], *queries))
    for a, b in zip(whole, last, strict=True):
        np.testing.assert_allclose(np.moveaxis(a, time, 0)[4:], np.moveaxis(b, time, 0), atol=1e-5)


def test_boxes_go_on_from_the_last_box():
    readout = build(lambda: streaming.StreamingBoxes(8, query_width=6, **SIZES, rngs=nnx.Rngs(0)))
    kernel = readout.query_net.mlp.dense_in.kernel  # high frequencies of an untrained readout would enlarge rounding
    kernel[...] = jnp.where((jnp.arange(128) % 16 < 3)[:, None], kernel[...], 0)
    whole = run(readout, FEATURES_BTMD, BOXES_BQ4)
    first = run(readout, FEATURES_BTMD[:, :2], BOXES_BQ4)
    rest = run(readout, FEATURES_BTMD[:, 2:], first[:, :, -1])
    np.testing.assert_allclose(np.concatenate([first, rest], axis=2), whole, atol=1e-4)


def test_no_gradient_goes_back_through_a_box():
    readout, _, _ = readout_of('boxes')
    gradient = jax.jit(jax.grad(lambda x: (readout(x, BOXES_BQ4)[:, :, 3] ** 2).sum()))(FEATURES_BTMD)
    assert np.abs(gradient[:, 3]).max() > 1e-4
    assert np.abs(gradient[:, jnp.array([0, 1, 2, 4])]).max() == 0


@pytest.mark.parametrize('kind', ['points', 'boxes'])
def test_a_query_ignores_the_others(kind):
    readout, (queries,), _ = readout_of(kind)
    found = jax.tree.leaves(run(readout, FEATURES_BTMD, queries))[0]
    changed = jax.tree.leaves(run(readout, FEATURES_BTMD, queries.at[:, 0].add(0.1)))[0]
    np.testing.assert_allclose(changed[:, 1:], found[:, 1:], atol=1e-6)
    assert np.abs(changed[:, 0] - found[:, 0]).max() > 1e-4


def test_released_uncertainty_becomes_certainty():
    readout = build(lambda: streaming.StreamingPoints(8, query_width=6, **SIZES, rngs=nnx.Rngs(0)))
    readout.head.dense_out.kernel[...] = jnp.zeros((6, 4))
    readout.head.dense_out.bias[...] = jnp.array([0.0, 0.0, 2.0, 3.0])
    _, visible, certain = run(readout, FEATURES_BTMD, POINTS_BQ2)
    assert (visible == 2).all() and (certain == -3).all()


def test_the_pose_head_averages_all_tokens():
    readout, _, _ = readout_of('pose')
    whole, mean = run(readout, FEATURES_BTMD), run(readout, FEATURES_BTMD.mean(2, keepdims=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, mean)
    assert readout.log_scales[...].tolist() == [0, -3]


def test_boxes_as_center_and_size_and_back():
    assert np.allclose(streaming.corners_to_center(jnp.array([0.2, 0.1, 0.6, 0.5])), [0.4, 0.3, 0.4, 0.4])
    np.testing.assert_allclose(
        streaming.center_to_corners(streaming.corners_to_center(BOXES_BQ4)), BOXES_BQ4, atol=1e-6
    )


def test_the_decoder_layer_is_pre_norm_with_relu():
    layer = build(lambda: streaming.DecoderLayer(16, 2, rngs=nnx.Rngs(3)))
    params = jax.tree.map(lambda x: x + 0.3 * draw(*x.shape, seed=x.size), nnx.to_pure_dict(nnx.state(layer)))
    nnx.update(layer, params)
    x_BQD, tokens_BMD = np.float64(draw(2, 4, 16, seed=4)), np.float64(draw(2, 3, 16, seed=5))

    def dense(x, name):
        found = params
        for part in name.split('.'):
            found = found[part]
        return x @ np.float64(found['kernel']).reshape(x.shape[-1], -1) + np.float64(found['bias']).ravel()

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * params[name]['scale'] + params[name]['bias']

    expected = x_BQD + dense(dense(norm(x_BQD, 'attention_norm'), 'attention.value'), 'attention.out')
    query = dense(norm(expected, 'cross_attention_norm'), 'cross_attention.query').reshape(2, 4, 2, 8)
    key, value = (dense(tokens_BMD, f'cross_attention.{name}').reshape(2, 3, 2, 8) for name in ('key', 'value'))
    weights = np.exp(np.einsum('bqhd,bkhd->bhqk', query, key) / np.sqrt(8))
    attended = np.einsum('bhqk,bkhd->bqhd', weights / weights.sum(-1, keepdims=True), value).reshape(2, 4, 16)
    expected = expected + dense(attended, 'cross_attention.out')
    expected = expected + dense(np.maximum(dense(norm(expected, 'mlp_norm'), 'dense_in'), 0), 'dense_out')
    found = run(layer, jnp.float32(x_BQD), jnp.float32(tokens_BMD))
    np.testing.assert_allclose(found, norm(expected, 'norm'), atol=1e-4)

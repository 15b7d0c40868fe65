import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.losses import scores_of

SIZES = {'image_size': 16, 'channels': 16, 'heads': 2, 'decoder_zeros': 8, 'decoder_channels': 16}
WAYS = {
    'offline': {},
    'streaming': {'streaming': True},
    'per_pixel': {'per_pixel': True, 'train_stride': 1, 'eval_stride': 1},
}


def example(seed, num_frames=4):
    rng = np.random.default_rng(seed)
    depth = np.linspace(1, 2 + seed, 16)[:, None] + rng.uniform(0, 0.2, (num_frames, 1, 1)) + np.zeros((1, 16, 16))
    depth[:, 4:6, 3:9] = 0
    return {'id': str(seed), 'depth_THW': depth.astype(np.float32)}


EXAMPLES = [example(0), example(1)]
BATCH = {'depth_THW': np.stack([one['depth_THW'] for one in EXAMPLES])}


def blocks(depth_BTHW, frames):
    return (
        depth_BTHW.reshape(2, 4 // frames, frames, 2, 8, 2, 8)
        .transpose(0, 1, 3, 5, 2, 4, 6)
        .reshape(2, -1, frames * 64)
    )


@pytest.mark.parametrize('log_depth', [True, False])
def test_a_perfect_answer_costs_nothing_and_comes_back_in_meters(log_depth):
    task = Depth(**SIZES, log_depth=log_depth)
    truth = np.where(BATCH['depth_THW'] > 0, BATCH['depth_THW'], 7.0)
    outputs = blocks(np.log(truth) if log_depth else truth, 2)
    features = np.zeros((2, 4, 1, 1))
    assert task.loss(lambda _: outputs, features, BATCH)[0] < 1e-9
    found = np.asarray(task.predict(lambda _: outputs, features, BATCH)['depth_THW'])
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    assert scores_of(task, [{'depth_THW': one} for one in found], EXAMPLES)['abs_rel'] < 1e-6


def test_streaming_blocks_are_of_one_frame():
    task = Depth(**SIZES, streaming=True)
    truth = np.where(BATCH['depth_THW'] > 0, BATCH['depth_THW'], 7.0)
    outputs = blocks(np.log(truth), 1).reshape(2, 4, 4, 64)
    assert task.loss(lambda _: outputs, np.zeros((2, 4, 1, 1)), BATCH)[0] < 1e-9


def test_the_error_of_each_pixel_is_relative():
    task = Depth(**SIZES)
    outputs = np.log(1.1) + blocks(np.log(np.maximum(BATCH['depth_THW'], 1)), 2)
    found = task.predict(lambda _: outputs, np.zeros((2, 4, 1, 1)), BATCH)['depth_THW']
    scores = scores_of(task, [{'depth_THW': np.asarray(one)} for one in found], EXAMPLES)
    assert scores['abs_rel'] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize('garbage', [-1.0, np.nan])
def test_missing_depth_cannot_change_the_loss(garbage):
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 128)), jnp.float32)

    def differentiated(depth):
        task, features = Depth(**SIZES), np.zeros((2, 4, 1, 1))
        return jax.jit(jax.value_and_grad(lambda x: task.loss(lambda _: x, features, {'depth_THW': depth})[0]))(outputs)

    loss, gradient = differentiated(np.where(BATCH['depth_THW'] > 0, BATCH['depth_THW'], garbage))
    clean, clean_gradient = differentiated(BATCH['depth_THW'])
    assert loss == clean and (gradient == clean_gradient).all() and np.isfinite(clean)


def test_training_pixels_are_compared_with_their_own_truth():
    rows, columns = np.linspace(-1, 1, 16)[:, None], np.linspace(-1, 1, 16)
    depth = np.broadcast_to(5 + 2 * rows + columns, (2, 4, 16, 16)).astype(np.float32)

    def readout(features_BTMD, pixels_Q2):
        return jnp.broadcast_to(5 + pixels_Q2 @ jnp.array([2.0, 1.0]), (2, 4, len(pixels_Q2)))

    task = Depth(**SIZES, per_pixel=True, log_depth=False)
    offsets = set()
    for shift in range(5):
        truth = depth + shift * np.float32(0.01)
        assert task.loss(readout, None, {'depth_THW': truth})[0] < 0.05**2
        offsets.add(tuple(np.asarray(task._offsets(jnp.asarray(truth))).tolist()))
    assert len(offsets) > 2
    found = task.predict(readout, None, {'depth_THW': depth})['depth_THW']
    assert found.shape == (2, 4, 4, 4)
    examples = [{'id': str(i), 'depth_THW': depth[i]} for i in range(2)]
    assert scores_of(task, [{'depth_THW': np.asarray(one)} for one in found], examples)['abs_rel'] < 1e-6


@pytest.mark.parametrize('way', WAYS)
def test_a_readout_learns_two_clips(overfit, way):
    task = Depth(**SIZES, **WAYS[way])
    before, after, scores = overfit(task, EXAMPLES)
    assert after < before / 20 and scores['abs_rel'] < 0.15


def test_what_does_not_go_together_is_a_kind_error():
    with pytest.raises(UserError, match='multiple of'):
        Depth(image_size=100)
    with pytest.raises(UserError, match='choose one'):
        Depth(streaming=True, per_pixel=True)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.probing.readouts.tracker import RecurrentTracker


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


FEATURES_BTMD, FRAMES_BQ = draw(2, 5, 3, 8), jnp.array([[0, 2, 1], [3, 0, 0]])
POSITIONS = {2: jax.nn.sigmoid(draw(2, 3, 2, seed=1)), 4: jax.nn.sigmoid(draw(2, 3, 4, seed=1))}
run = nnx.jit(lambda tracker, *args: tracker(*args))


def build(coordinates):
    sizes = {'channels': 16, 'heads': 2, 'hidden': 24, 'depth': 2}
    return nnx.jit(lambda: RecurrentTracker(8, coordinates, **sizes, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope='module')
def trackers():
    return {coordinates: build(coordinates) for coordinates in POSITIONS}


@pytest.mark.parametrize('coordinates', POSITIONS)
def test_tracks_do_not_see_each_other_or_the_future(trackers, coordinates):
    positions = POSITIONS[coordinates]
    found = run(trackers[coordinates], FEATURES_BTMD, positions, FRAMES_BQ)
    changed = run(trackers[coordinates], FEATURES_BTMD.at[:, 4].add(1.0), positions.at[:, 0].add(0.2), FRAMES_BQ)
    assert found[0].shape == (2, 3, 5, coordinates) and found[1].shape == found[2].shape == (2, 3, 5)
    for before, after in zip(found, changed, strict=True):
        np.testing.assert_array_equal(after[:, 1:, :4], before[:, 1:, :4])
        assert np.abs(after[:, 1:, 4] - before[:, 1:, 4]).max() > 1e-4
        assert np.abs(after[0, 0] - before[0, 0]).max() > 1e-4


def test_a_track_begins_at_its_query_frame(trackers):
    found = run(trackers[2], FEATURES_BTMD, POSITIONS[2], FRAMES_BQ)[0]
    changed = run(trackers[2], FEATURES_BTMD.at[:, :2].add(1.0), POSITIONS[2], FRAMES_BQ)[0]
    np.testing.assert_array_equal(changed[0, 1, 2:], found[0, 1, 2:])
    np.testing.assert_array_equal(changed[1, 0, 3:], found[1, 0, 3:])
    assert np.abs(changed[0, 0, 2:] - found[0, 0, 2:]).max() > 1e-5


def test_pieces_of_a_clip_equal_the_whole(trackers):
    tracker = trackers[4]
    track = nnx.jit(lambda tracker, *args: tracker.track(*args))
    start = nnx.jit(lambda tracker: tracker.first_latents(POSITIONS[4]))(tracker)
    whole = track(tracker, FEATURES_BTMD, start, start, FRAMES_BQ)
    first = track(tracker, FEATURES_BTMD[:, :2], start, start, FRAMES_BQ)
    rest = track(tracker, FEATURES_BTMD[:, 2:], first[-1], start, FRAMES_BQ - 2)
    np.testing.assert_allclose(np.concatenate([first[0], rest[0]], axis=2), whole[0], atol=1e-5)
    np.testing.assert_allclose(rest[-1], whole[-1], atol=1e-5)


def test_points_stay_in_the_frame_and_boxes_are_x_first(trackers):
    points = run(trackers[2], 30 * FEATURES_BTMD, POSITIONS[2], FRAMES_BQ)[0]
    assert 0 < points.min() and points.max() < 1
    tracker = build(4)
    tracker.values.dense_out.kernel[...] = jnp.zeros((16, 4))
    tracker.values.dense_out.bias[...] = jnp.arange(4.0)
    assert run(tracker, FEATURES_BTMD, POSITIONS[4], FRAMES_BQ)[0][0, 0, 0].tolist() == [1, 0, 3, 2]

import numpy as np
import pytest

from rvm_jax.probing.metrics import pose

TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees around the optical axis


def test_the_nearest_rotation_of_a_scaled_rotation():
    np.testing.assert_allclose(pose.nearest_rotation([2 * TURN, 0.1 * TURN]), [TURN, TURN], atol=1e-12)


@pytest.mark.parametrize('matrix', [np.diag([1.0, 1, -1]), -TURN, -np.eye(3)])
def test_a_reflection_becomes_a_rotation(matrix):
    rotation = pose.nearest_rotation(matrix)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


def test_no_rotation_is_nearer():
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(20, 3, 3))
    nearest = np.linalg.norm(pose.nearest_rotation(matrices) - matrices, axis=(1, 2))
    for others in pose.nearest_rotation(rng.normal(size=(50, 1, 3, 3))):
        assert (nearest <= np.linalg.norm(others - matrices, axis=(1, 2)) + 1e-12).all()


def test_corner_error_of_a_shift_is_its_length():
    truth = np.concatenate([TURN, [[0.0], [0], [1]]], axis=1)
    predicted = truth + np.array([[0, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, 4]])
    assert pose.corner_error(predicted, truth) == pytest.approx(5)
    assert pose.corner_error(truth * [7, 7, 7, 1], truth) == pytest.approx(0, abs=1e-12)


def test_corner_error_of_a_turn_is_that_of_a_cube_two_ahead():
    still, turned = (np.concatenate([rotation, np.zeros((3, 1))], axis=1) for rotation in (np.eye(3), TURN))
    assert pose.corner_error(turned, still) == pytest.approx(1)  # corners are sqrt(1 / 2) from the axis
    around_y = np.diag([-1.0, 1, -1])  # half a turn: a corner at (x, z) goes to (-x, -z)
    error = np.mean([2 * np.hypot(0.5, depth) for depth in (1.5, 2.5)])
    assert pose.corner_error(np.concatenate([around_y, np.zeros((3, 1))], axis=1), still) == pytest.approx(error)


def test_translation_error_is_in_millimeters_of_known_frames():
    truth, known = np.ones((4, 3)), np.array([True, True, True, False])
    predicted = truth + np.array([[9, 9, 9], [0.003, 0, 0.004], [0, 0.001, 0], [5, 5, 5]])
    mean, root_mean_square = pose.translation_error(predicted, truth, known)
    assert mean == pytest.approx(3) and root_mean_square == pytest.approx(13**0.5)
    assert np.isnan(pose.translation_error(predicted, truth, [True, False, False, False])).all()

import pathlib

import numpy as np
import pytest

from rvm_jax.probing.metrics import keypoints

GOLDEN = pathlib.Path(__file__).parents[2] / 'goldens' / 'metrics.npz'
SQUARE = np.array([[0.0, 0], [30, 0], [30, 40], [0, 40]])  # diagonal 50, so distances count in units of 30


def video(predicted, visible=None, num_frames=2):
    truth = np.broadcast_to(SQUARE, (num_frames, 4, 2))
    visible = np.ones((num_frames, 4), bool) if visible is None else np.broadcast_to(visible, (num_frames, 4))
    return np.broadcast_to(predicted, truth.shape), truth, visible


def test_pck_equals_the_official_numbers():
    with np.load(GOLDEN, allow_pickle=False) as file:
        videos = [tuple(file[f'pck_{part}_{index}'] for part in ('pred', 'gt', 'visible')) for index in (0, 1)]
        expected = {threshold: float(file[f'pck_{threshold}']) for threshold in keypoints.THRESHOLDS}
    assert keypoints.pck(videos) == pytest.approx(expected, abs=1e-6)


def test_a_distance_of_exactly_the_threshold_is_found():
    shares = keypoints.pck(
        [video(SQUARE + np.array([[3, 0], [0, 6], [0, 0], [30, 0]]))], thresholds=(0.1, 0.2, 0.99, 1.0)
    )
    assert shares == {0.1: 50, 0.2: 75, 0.99: 75, 1.0: 100}


def test_frame_0_does_not_count():
    predicted, truth, visible = video(SQUARE)
    predicted = np.concatenate([predicted[:1] + 100, predicted[1:]])
    assert keypoints.pck([(predicted, truth, visible)])[0.1] == 100


def test_joints_without_a_prediction_are_skipped():
    predicted = SQUARE + np.array([[3, 0], [0, 0], [100, 0], [100, 0]])
    assert keypoints.pck([video(predicted)])[0.1] == 50
    seen = keypoints.pck([video(predicted, [True, True, False, False])], thresholds=(0.1, 0.2))
    assert seen == {0.1: 50, 0.2: 100}  # the body is now 30 long: 3 of 18 is more than a tenth


def test_joints_count_alike_however_often_they_are_predicted():
    often = video(SQUARE + np.array([[100, 0], [0, 0], [0, 0], [0, 0]]), num_frames=9)
    once = video(SQUARE, num_frames=2)
    assert keypoints.pck([often, once])[0.1] == pytest.approx((100 / 9 + 300) / 4)


def test_a_body_of_no_size():
    one = [True, False, False, False]
    assert keypoints.pck([video(SQUARE, one)])[0.1] == 100
    assert keypoints.pck([video(SQUARE + 1, one)])[0.5] == 0


def test_nothing_predicted_gives_nan():
    assert np.isnan(keypoints.pck([video(SQUARE, [False] * 4)])[0.1])

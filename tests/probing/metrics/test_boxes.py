import numpy as np
import pytest

from rvm_jax.probing.metrics import boxes

BOX = [0.2, 0.2, 0.6, 0.6]


@pytest.mark.parametrize(
    ('other', 'expected'),
    [
        (BOX, 1),
        ([0.4, 0.2, 0.8, 0.6], 1 / 3),
        ([0.6, 0.2, 0.8, 0.6], 0),  # touches
        ([0.7, 0.7, 0.8, 0.8], 0),
        ([0.3, 0.3, 0.5, 0.5], 0.25),
        ([0.3, 0.3, 0.3, 0.3], 0),
    ],
)
def test_overlap(other, expected):
    assert boxes.iou(BOX, other) == pytest.approx(expected)
    assert boxes.iou(other, BOX) == pytest.approx(expected)


def test_two_empty_boxes_do_not_overlap():
    assert boxes.iou(np.zeros((2, 3, 4)), np.zeros(4)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_known_pairs_count_alike_and_frame_0_does_not():
    truth = np.broadcast_to(BOX, (2, 4, 4))
    predicted, known = truth.copy(), np.ones((2, 4), bool)
    predicted[:, 0] = 0
    predicted[0, 1:] = [0.4, 0.2, 0.8, 0.6]
    known[1, 2:] = False
    assert boxes.mean_iou(predicted, truth, known) == pytest.approx((3 / 3 + 1) / 4)
    assert known[0, 0]  # the caller's array is as it was


def test_corners_are_sorted_and_clamped():
    truth = np.broadcast_to([0.0, 0.5, 0.5, 1.0], (1, 2, 4))
    predicted = np.broadcast_to([0.5, 1.7, -3.0, 0.5], (1, 2, 4))
    assert boxes.mean_iou(predicted, truth, np.ones((1, 2), bool)) == 1


def test_nothing_known_gives_nan():
    known = np.array([[True, False]])
    assert np.isnan(boxes.mean_iou(np.zeros((1, 2, 4)), np.zeros((1, 2, 4)), known))

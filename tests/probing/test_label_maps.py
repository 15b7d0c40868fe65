import numpy as np
import pytest

from rvm_jax.probing import label_maps
from rvm_jax.probing.metrics import keypoints

SIZE = 240, 320
POSE = np.array([(10 + 20 * i, 15 + 13 * i) for i in range(15)], np.float64)
MASK = np.zeros((80, 96), np.uint8)
MASK[16:48, 16:64], MASK[40:72, 56:88] = 1, 2


def test_a_mask_becomes_one_channel_a_value():
    labels, values = label_maps.mask_to_labels(MASK, (80, 96), (5, 6))
    assert values.tolist() == [0, 1, 2] and labels.dtype == np.float32
    assert labels.sum(axis=(0, 1)).tolist() == [20.25, 5.75, 4]
    assert labels[2, 3].tolist() == [0, 0.75, 0.25] and labels[3, 3].tolist() == [0.5, 0, 0.5]


def test_values_need_not_be_in_a_row():
    labels, values = label_maps.mask_to_labels(np.where(MASK == 2, 200, MASK), (80, 96), (5, 6))
    assert values.tolist() == [0, 1, 200]
    assert set(np.unique(label_maps.labels_to_mask(labels, values, (80, 96), (75, 90)))) == {0, 1, 200}


def test_a_mask_of_one_value_stays_one():
    labels, values = label_maps.mask_to_labels(np.full((8, 8), 3), (16, 16), (2, 2))
    assert labels.tolist() == [[[1], [1]], [[1], [1]]]
    assert label_maps.labels_to_mask(labels, values, (16, 16), (5, 7)).tolist() == [[3] * 7] * 5


def test_a_mask_of_whole_cells_comes_back():
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 32:64] = 5
    labels, values = label_maps.mask_to_labels(mask, (64, 64), (4, 4))
    assert (label_maps.labels_to_mask(labels, values, (64, 64), (64, 64)) != mask).mean() < 0.02  # corners are round


def test_nearest_neighbors_of_masks_are_those_of_the_protocol():
    stripes = np.arange(10, dtype=np.uint8)[None].repeat(4, axis=0)
    labels, values = label_maps.mask_to_labels(stripes, (4, 4), (4, 4))
    assert values[labels.argmax(axis=-1)][0].tolist() == [0, 2, 5, 7]  # floor(i * 2.5)
    out = label_maps.labels_to_mask(np.eye(10, dtype=np.float32)[stripes], np.arange(10), (4, 10), (4, 4))
    assert out[0].tolist() == [1, 3, 6, 8]  # the pixel at the center, (i + 0.5) * 2.5


def test_keypoints_become_gaussians():
    labels = label_maps.keypoints_to_labels(POSE, SIZE, (20, 20))
    sums = labels[..., 1:].sum(axis=(0, 1))
    assert sums[5] == pytest.approx(1.61546, abs=1e-5) and labels.max() == 1
    assert sums[0] == pytest.approx(1.28975, abs=1e-5)  # cut by the border, and moved inward:
    assert np.unravel_index(labels[..., 1].argmax(), (20, 20)) == (2, 2)
    assert ((labels[..., 0] == 1) == (labels[..., 1:].sum(axis=-1) == 0)).all()


@pytest.mark.parametrize('point', [(-100, 100), (100, -100), (500, 100), (100, 500)])
def test_a_keypoint_outside_the_grid_is_not_found(point):
    labels = label_maps.keypoints_to_labels([point, (160, 120)], SIZE, (20, 20))
    assert labels[..., 1].sum() == 0
    points, visible = label_maps.labels_to_keypoints(labels, SIZE)
    assert points[0].tolist() == [-1, -1] and visible.tolist() == [False, True]


def test_a_keypoint_just_outside_the_grid_is_cut():
    labels = label_maps.keypoints_to_labels([(320, 120)], SIZE, (20, 20))
    assert 0 < labels[..., 1].sum() < 1.6 and labels[:, 18:, 1].any() and not labels[:, :18, 1].any()


def test_keypoints_come_back_within_a_cell():
    points, visible = label_maps.labels_to_keypoints(label_maps.keypoints_to_labels(POSE, SIZE, (20, 20)), SIZE)
    assert visible.all()
    expected = [(30.0932, 22.5637), (32, 24), (48, 36), (64, 60), (288, 192)]
    np.testing.assert_allclose(points[[0, 1, 2, 3, 14]], expected, atol=1e-3)
    truth = POSE + np.array([0, 3, 9])[:, None, None]
    shares = keypoints.pck([(np.stack([points] * 3), truth, np.ones((3, 15)))], (0.01, 0.02, 0.05, 0.1))
    assert shares == pytest.approx({0.01: 3.3333, 0.02: 13.3333, 0.05: 53.3333, 0.1: 100}, abs=1e-3)

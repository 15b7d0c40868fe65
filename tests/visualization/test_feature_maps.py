import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.visualization import canvas, feature_maps


def features_of(labels_Thw, width=6, noise=0.01):
    """Well-separated features: each label is a corner of the space."""
    rng = np.random.default_rng(0)
    corners_KD = 3 * np.eye(width)[: labels_Thw.max() + 1]
    return (corners_KD[labels_Thw] + noise * rng.normal(size=(*labels_Thw.shape, width))).astype(np.float32)


def test_pca_colors_are_scaled_leading_directions():
    features_ThwD = np.random.default_rng(0).normal(size=(3, 4, 5, 6)) * [9, 5, 3, 0.1, 0.1, 0.1]
    colors_THWC = feature_maps.pca_colors(features_ThwD, (8, 10))
    assert colors_THWC.shape == (3, 8, 10, 3) and colors_THWC.dtype == np.uint8
    vectors_ND = features_ThwD.reshape(-1, 6)
    centered_ND = vectors_ND - vectors_ND.mean(axis=0)
    for component, direction_D in enumerate(np.linalg.svd(centered_ND, full_matrices=False)[2][:3]):
        found_N = colors_THWC[:, ::2, ::2, component].reshape(-1).astype(float)
        assert found_N.min() == 0 and found_N.max() >= 254
        assert abs(np.corrcoef(found_N, centered_ND @ direction_D)[0, 1]) > 0.9999


def test_kmeans_numbers_the_groups_of_a_video_by_size():
    labels_Thw = np.array([0] * 30 + [1] * 20 + [2] * 12 + [3] * 7 + [4] * 3)
    np.random.default_rng(1).shuffle(labels_Thw)
    labels_Thw = labels_Thw.reshape(2, 6, 6)
    assert (feature_maps.kmeans_labels(features_of(labels_Thw)) == labels_Thw).all()


def test_the_same_seed_gives_the_same_pictures():
    features_ThwD = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
    assert (feature_maps.kmeans_labels(features_ThwD) == feature_maps.kmeans_labels(features_ThwD)).all()
    first, second = (feature_maps.pca_colors(features_ThwD, (4, 4)) for _ in range(2))
    assert (first == second).all()


def test_upsampling_gives_each_cell_its_patch():
    cells_ThwC = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    up = feature_maps.upsample(cells_ThwC, (4, 9))
    assert (up[0, :, :, 0] == np.kron(cells_ThwC[0, :, :, 0], np.ones((2, 3)))).all()


def test_label_colors_are_the_matplotlib_palette():
    colors = feature_maps.label_colors(np.arange(5).reshape(1, 1, 5), (1, 5))
    named = ['#' + bytes(color).hex() for color in colors[0, 0]]
    assert named == ['#1f77b4', '#ff7f0e', '#2ca02c', '#d62728', '#9467bd']


def test_overlays_blend_half_and_half_inside_the_mask():
    frames_THWC = np.full((1, 1, 2, 3), 255, np.uint8)
    assert canvas.blend(frames_THWC, np.zeros_like(frames_THWC)).max() == 127
    tinted = canvas.tint(frames_THWC, np.array([[[0, 1]]]), color=(1, 255, 101))
    assert tinted.tolist() == [[[[255, 255, 255], [128, 255, 178]]]]


def test_too_few_vectors_are_a_kind_error():
    with pytest.raises(UserError, match='at least 5'):
        feature_maps.kmeans_labels(np.zeros((1, 2, 2, 8), np.float32))
    with pytest.raises(UserError, match='three components'):
        feature_maps.pca_colors(np.zeros((1, 4, 4, 2), np.float32), (8, 8))


def test_feature_panel_shows_up_to_eight_moments_and_the_truth():
    frames_THWC = np.zeros((20, 16, 16, 3), np.uint8)
    features_ThwD = np.random.default_rng(0).normal(size=(20, 2, 2, 8)).astype(np.float32)
    without = feature_maps.feature_panel(frames_THWC, features_ThwD)
    truth = np.full_like(frames_THWC, 77)
    with_truth = feature_maps.feature_panel(frames_THWC, features_ThwD, truth)
    assert with_truth.shape[0] > without.shape[0] and with_truth.shape[1] == without.shape[1]
    assert (with_truth == 77).all(axis=-1).sum() >= 8 * 128 * 128
    short = feature_maps.feature_panel(frames_THWC[:2], features_ThwD[:2])
    assert short.shape[1] < without.shape[1] / 2

"""Features as pictures: three principal components as colors, and five K-means groups.

They are built as in the figures of RVM: all (t, row, column) vectors of one video are fitted together.
"""

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.visualization.canvas import PALETTE, blend
from rvm_jax.visualization.movies import contact_sheet


def pca_colors(features_ThwD: np.ndarray, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Three whitened principal components as red, green and blue.

    size is (height, width) in pixels; returns uint8 (T, height, width, 3). Each component is scaled to [0, 1] by its
    smallest and largest value in the video.
    """
    from sklearn.decomposition import PCA

    vectors_ND = _vectors(features_ThwD, at_least=3)
    if vectors_ND.shape[1] < 3:
        raise UserError(f'features of width {vectors_ND.shape[1]}', 'PCA needs three components', 'use a wider model')
    scores_NC = PCA(n_components=3, whiten=True, random_state=seed).fit_transform(vectors_ND)
    low_C, high_C = scores_NC.min(axis=0), scores_NC.max(axis=0)
    colors_NC = (scores_NC - low_C) / (high_C - low_C + 1e-8)
    colors_ThwC = (colors_NC * 255).astype(np.uint8).reshape(*features_ThwD.shape[:3], 3)
    return upsample(colors_ThwC, size)


def kmeans_labels(features_ThwD: np.ndarray, num_clusters: int = 5, seed: int = 0) -> np.ndarray:
    """The group of every vector, int (T, h, w). Group 0 is the largest, so that colors depend less on the seed."""
    from sklearn.cluster import KMeans

    vectors_ND = _vectors(features_ThwD, at_least=num_clusters)
    found_N = KMeans(num_clusters, init='k-means++', n_init=1, random_state=seed).fit_predict(vectors_ND)
    order_K = np.argsort(-np.bincount(found_N, minlength=num_clusters), kind='stable')
    return np.argsort(order_K)[found_N].reshape(features_ThwD.shape[:3])


def label_colors(labels_Thw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The palette color of each label, upsampled to size (height, width) pixels. uint8 THWC."""
    return upsample(PALETTE[labels_Thw], size)


def upsample(pictures_ThwC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbor upsampling to (height, width) pixels."""
    grid_height, grid_width = pictures_ThwC.shape[1:3]
    rows_H = np.arange(size[0]) * grid_height // size[0]
    columns_W = np.arange(size[1]) * grid_width // size[1]
    return pictures_ThwC[:, rows_H][:, :, columns_W]


def feature_panel(
    frames_THWC: np.ndarray,
    features_ThwD: np.ndarray,
    truth_THWC: np.ndarray | None = None,
    columns: int = 8,
    first: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Frames, PCA, K-means and its overlay as named rows, with the truth below if it is known. uint8 HWC.

    All frames are fitted; frames before `first` are not shown, because a state needs a few frames to see motion.
    """
    size = frames_THWC.shape[1:3]
    clusters_THWC = label_colors(kmeans_labels(features_ThwD, seed=seed), size)
    videos = [
        ('video', frames_THWC),
        ('PCA', pca_colors(features_ThwD, size, seed)),
        ('K-means', clusters_THWC),
        ('overlay', blend(frames_THWC, clusters_THWC)),
    ]
    if truth_THWC is not None:
        videos.append(('truth', truth_THWC))
    return contact_sheet(videos, columns, first)


def _vectors(features_ThwD, at_least):
    vectors_ND = features_ThwD.reshape(-1, features_ThwD.shape[-1])
    if len(vectors_ND) < at_least:
        raise UserError(f'{len(vectors_ND)} feature vectors', f'at least {at_least} are needed', 'use more frames')
    return vectors_ND

"""Masks and keypoints to and from soft labels of a feature grid (RVM, nearest-neighbor evaluation).

Resizing is OpenCV's, and its quirks are kept for parity. Masks to labels: its plain nearest neighbor takes the pixel up
and left of the exact one, and its bilinear resize does not smooth, so a cell of 16 pixels is the mean of its four
middle pixels.
"""

import cv2
import numpy as np

SIGMA = 0.5  # cells, of the Gaussian around a keypoint
NUM_PEAKS = 5  # cells that a keypoint is read from
NOT_FOUND = -1.0


def mask_to_labels(mask_HW: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(labels_hwK, values_K): one channel for each value of the mask, in rising order, including the background.

    size is the (height, width) that frames are resized to, grid the (h, w) of features.
    """
    mask_HW = np.asarray(mask_HW, np.uint8)
    values_K = np.unique(mask_HW)
    resized_HW = cv2.resize(mask_HW, size[::-1], interpolation=cv2.INTER_NEAREST)
    one_hot_HWK = (resized_HW[..., None] == values_K).astype(np.float32)
    return _bilinear(one_hot_HWK, grid), values_K


def labels_to_mask(
    labels_hwK: np.ndarray, values_K: np.ndarray, size: tuple[int, int], original_size: tuple[int, int]
) -> np.ndarray:
    """uint8 mask of original_size (height, width): the strongest label of each pixel at `size`; the lowest in a tie."""
    strongest_HW = _bilinear(labels_hwK, size).argmax(axis=-1)
    mask_HW = np.asarray(values_K, np.uint8)[strongest_HW]
    return cv2.resize(mask_HW, original_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def keypoints_to_labels(points_Q2: np.ndarray, original_size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """labels_hwK of keypoints (x, y) in pixels of a frame of original_size: background, then a Gaussian for each.

    Positions are scaled without a half-cell shift and then rounded toward 0, so a Gaussian near the upper or left edge
    moves inward. The background is 1 where all others are 0; a keypoint outside the grid has an empty channel.
    """
    height, width = grid
    scaled_Q2 = np.asarray(points_Q2, np.float64) * [width / original_size[1], height / original_size[0]]
    labels_hwK = np.zeros((height, width, 1 + len(scaled_Q2)), np.float32)
    for channel, (x, y) in enumerate(scaled_Q2, start=1):
        columns, rows = _bump(x, width), _bump(y, height)
        if columns is not None and rows is not None:
            labels_hwK[..., channel] = rows[:, None] * columns
    labels_hwK[..., 0] = labels_hwK.sum(axis=-1) == 0
    return labels_hwK


def labels_to_keypoints(labels_hwK: np.ndarray, original_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(points_Q2, visible_Q): the weighted mean of the strongest cells of each channel but the first, in pixels.

    (-1, -1) and False if a channel is all 0. `keypoints_to_labels` loses half a cell, which is not added back here.
    """
    height, width = labels_hwK.shape[:2]
    flat_NQ = np.asarray(labels_hwK, np.float64)[..., 1:].reshape(height * width, -1)
    strongest_kQ = np.argsort(-flat_NQ, axis=0, kind='stable')[:NUM_PEAKS]
    weights_kQ = np.take_along_axis(flat_NQ, strongest_kQ, axis=0)
    visible_Q = flat_NQ.sum(axis=0) != 0
    weights_kQ = weights_kQ / np.where(visible_Q, weights_kQ.sum(axis=0), 1)
    cells = ((strongest_kQ % width) * original_size[1] / width, (strongest_kQ // width) * original_size[0] / height)
    points_Q2 = np.stack([np.sum(part_kQ * weights_kQ, axis=0) for part_kQ in cells], axis=-1)
    return np.where(visible_Q[:, None], points_Q2, NOT_FOUND), visible_Q


def _bilinear(values_HWK, size):
    resized = cv2.resize(np.asarray(values_HWK, np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, -1)  # OpenCV drops the axis of a single channel


def _bump(position, length):
    """One axis of a Gaussian with four values, the third is the peak, cut at the edges of the grid; None if outside."""
    low, high = int(position - 3 * SIGMA), int(position + 3 * SIGMA + 1)
    if low >= length or high < 0:
        return None
    cells = np.arange(length)
    bump = np.exp(-((cells - low - 2) ** 2) / (2 * SIGMA**2))
    return np.where((cells >= low) & (cells < min(high, low + 4)), bump, 0)

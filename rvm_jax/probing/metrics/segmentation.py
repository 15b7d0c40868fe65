"""Agreement of masks: J and F of DAVIS, and mean IoU over classes as VIP counts it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

TOLERANCE = 0.008  # of the diagonal of a frame: how far off a boundary may be and still count in F


def region_similarity(predicted_THW: np.ndarray, truth_THW: np.ndarray) -> np.ndarray:
    """J of one object in each frame: intersection over union of its masks; 1 if both are empty. float64 (T,)."""
    predicted_THW, truth_THW = np.asarray(predicted_THW, bool), np.asarray(truth_THW, bool)
    shared_T = np.sum(predicted_THW & truth_THW, axis=(1, 2), dtype=np.float64)
    union_T = np.sum(predicted_THW | truth_THW, axis=(1, 2), dtype=np.float64)
    return np.divide(shared_T, union_T, out=np.ones_like(union_T), where=union_T > 0)


def boundary_accuracy(predicted_THW: np.ndarray, truth_THW: np.ndarray) -> np.ndarray:
    """F of one object in each frame: F-measure of the boundary pixels that lie near the other's boundary. float64 (T,).

    Near is within ceil(0.008 * diagonal) pixels. 1 if neither mask has a boundary, 0 if only one has.
    """
    radius = math.ceil(TOLERANCE * math.hypot(*np.shape(truth_THW)[1:]))
    return np.array([_boundary_f(*masks, radius) for masks in zip(predicted_THW, truth_THW, strict=True)], np.float64)


def frame_scores(predicted_THW: np.ndarray, truth_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(J_TQ, F_TQ) of each frame of a video and each of its objects.

    Both are label maps with background 0; objects are 1 to the largest label of any true frame. There are no void
    pixels.
    """
    labels = range(1, int(np.max(truth_THW, initial=0)) + 1)
    masks = [(predicted_THW == label, truth_THW == label) for label in labels]
    scores = [(region_similarity(*pair), boundary_accuracy(*pair)) for pair in masks]
    j_QT, f_QT = np.reshape(scores, (len(labels), 2, len(truth_THW))).transpose(1, 0, 2)
    return j_QT.T, f_QT.T


def object_means(j_TQ: np.ndarray, f_TQ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(J_Q, F_Q): means over the frames of a video without the first and the last; nan if there are no others."""
    if len(j_TQ) < 3:
        return np.full(j_TQ.shape[1], np.nan), np.full(j_TQ.shape[1], np.nan)
    return j_TQ[1:-1].mean(axis=0), f_TQ[1:-1].mean(axis=0)


def pooled(means: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """`J`, `F` and their mean `J&F` in [0, 1] over all objects of all videos together, not per video.

    means are (J_Q, F_Q) of each video. Objects without a score are left out; nan if none has one.
    """
    j, f = (nan_mean([value for pair in means for value in pair[part]]) for part in (0, 1))
    return {'J': j, 'F': f, 'J&F': (j + f) / 2}


def davis_scores(videos: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The scores of DAVIS, as `pooled` gives them, from (predicted_THW, truth_THW) of each video."""
    return pooled([object_means(*frame_scores(predicted_THW, truth_THW)) for predicted_THW, truth_THW in videos])


def confusion(predicted: Any, truth: Any, num_classes: int) -> np.ndarray:
    """int64 (num_classes, num_classes): pixels by true class (row) and predicted class (column).

    Pixels whose truth is not a class (such as 255) do not count. Matrices of several frames can be added. Raises
    ValueError if a prediction that counts is not a class.
    """
    predicted, truth = np.asarray(predicted, np.int64), np.asarray(truth, np.int64)
    counted = (truth >= 0) & (truth < num_classes)
    predicted, truth = predicted[counted], truth[counted]
    if len(predicted) and not 0 <= predicted.min() <= predicted.max() < num_classes:
        raise ValueError(f'predicted classes {predicted.min()} to {predicted.max()} are not in 0 to {num_classes - 1}')
    return np.bincount(num_classes * truth + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(confusion_KK: Any) -> float:
    """Mean over classes of intersection over union; classes in neither truth nor prediction are left out.

    nan if no class is left.
    """
    confusion_KK = np.asarray(confusion_KK, np.float64)
    shared_K = np.diag(confusion_KK)
    union_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1) - shared_K
    return nan_mean(shared_K[union_K > 0] / union_K[union_K > 0])


def nan_mean(values: Any) -> float:
    """Mean of the values that are not nan; nan, without a warning, if all are."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float('nan')


def _boundary_f(predicted_HW, truth_HW, radius):
    predicted_HW, truth_HW = _boundary(predicted_HW), _boundary(truth_HW)
    if not predicted_HW.any() or not truth_HW.any():
        return float(not predicted_HW.any() and not truth_HW.any())
    precision = np.mean(_dilate(truth_HW, radius)[predicted_HW])
    recall = np.mean(_dilate(predicted_HW, radius)[truth_HW])
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask_HW):
    """Pixels that differ from the pixel to the right, below, or below right.

    Edges of the frame are not boundaries, and the last pixel never is one.
    """
    mask_HW = np.asarray(mask_HW, bool)
    padded = np.pad(mask_HW, ((0, 1), (0, 1)), mode='edge')
    return (mask_HW != padded[:-1, 1:]) | (mask_HW != padded[1:, :-1]) | (mask_HW != padded[1:, 1:])


def _dilate(boundary_HW, radius):
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(boundary_HW.astype(np.uint8), disk).astype(bool)

"""Overlap of boxes x0, y0, x1, y1."""

import numpy as np


def iou(a_X4: np.ndarray, b_X4: np.ndarray) -> np.ndarray:
    """Area that both boxes cover over the area that either covers, for any leading axes; 0 if both are empty.

    Boxes are x0, y0, x1, y1 with x0 <= x1 and y0 <= y1; the unit does not matter.
    """
    a_X4, b_X4 = np.asarray(a_X4, np.float64), np.asarray(b_X4, np.float64)
    low_X2, high_X2 = np.maximum(a_X4[..., :2], b_X4[..., :2]), np.minimum(a_X4[..., 2:], b_X4[..., 2:])
    shared_X = np.prod(np.maximum(high_X2 - low_X2, 0), axis=-1)
    union_X = _area(a_X4) + _area(b_X4) - shared_X
    return np.divide(shared_X, union_X, out=np.zeros_like(union_X), where=union_X > 0)


def mean_iou(predicted_QT4: np.ndarray, truth_QT4: np.ndarray, known_QT: np.ndarray) -> float:
    """Mean overlap over all known objects and frames of a clip, without frame 0, which holds the query.

    Boxes are in [0, 1] of the frame. Predictions may have any value: corners are sorted, then clamped to the frame. nan
    if nothing is known after frame 0.
    """
    known_QT = np.array(known_QT, bool)
    known_QT[:, 0] = False
    if not known_QT.any():
        return float('nan')
    corners_X22 = np.asarray(predicted_QT4, np.float64)[known_QT].reshape(-1, 2, 2)
    predicted_X4 = np.clip(np.sort(corners_X22, axis=1), 0, 1).reshape(-1, 4)
    return float(np.mean(iou(predicted_X4, np.asarray(truth_QT4)[known_QT])))


def _area(boxes_X4):
    return np.prod(boxes_X4[..., 2:] - boxes_X4[..., :2], axis=-1)

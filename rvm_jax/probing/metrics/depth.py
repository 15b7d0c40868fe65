"""Error of depth maps."""

import numpy as np


def abs_rel(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean of |predicted - truth| / truth over all pixels of a clip with known truth; no scale is fitted.

    Both have the same shape and unit; truth 0 means unknown. nan if no pixel is known. The RVM tables print ten times
    it.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    known = truth > 0
    if not known.any():
        return float('nan')
    return float(np.mean(np.abs(predicted - truth)[known] / truth[known]))


def in_order(predicted_THW: np.ndarray, truth_THW: np.ndarray, masks_THW: np.ndarray) -> float:
    """Share of pairs of objects in a frame whose mean depths are in the true order; nan if there are no pairs.

    masks_THW has the object at each pixel; the background, 0, counts as an object.
    """
    right, total = 0, 0
    for predicted_HW, truth_HW, masks_HW in zip(predicted_THW, truth_THW, masks_THW, strict=True):
        seen = [masks_HW == label for label in np.unique(masks_HW)]
        means = np.array([(predicted_HW[mask_HW].mean(), truth_HW[mask_HW].mean()) for mask_HW in seen])
        first, second = np.triu_indices(len(means), 1)
        signs_P2 = np.sign(means[first] - means[second])
        right, total = right + np.sum(signs_P2[:, 0] == signs_P2[:, 1]), total + len(first)
    return right / total if total else float('nan')

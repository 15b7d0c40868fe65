"""Error of depth maps."""

import numpy as np


def abs_rel(predicted, truth):
    """Mean of |predicted - truth| / truth over all pixels of a clip whose truth is known; no scale is fitted.

    Both have the same shape and unit; truth 0 is missing. nan if no pixel is known. The RVM tables print ten times it.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    known = truth > 0
    if not known.any():
        return float('nan')
    return float(np.mean(np.abs(predicted - truth)[known] / truth[known]))


def in_order(predicted_THW, truth_THW, masks_THW):
    """Share of pairs of objects, frame by frame, whose mean depths are in the true order; nan if there is no pair.

    masks_THW says which object is seen at each pixel (0 the background, an object like the others).
    """
    right, total = 0, 0
    for predicted_HW, truth_HW, masks_HW in zip(predicted_THW, truth_THW, masks_THW, strict=True):
        seen = [masks_HW == label for label in np.unique(masks_HW)]
        means = np.array([(predicted_HW[mask_HW].mean(), truth_HW[mask_HW].mean()) for mask_HW in seen])
        first, second = np.triu_indices(len(means), 1)
        signs_P2 = np.sign(means[first] - means[second])
        right, total = right + np.sum(signs_P2[:, 0] == signs_P2[:, 1]), total + len(first)
    return right / total if total else float('nan')

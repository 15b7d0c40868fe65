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

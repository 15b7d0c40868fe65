"""Arrays of a fixed size from as many tracks or boxes as a clip happens to have."""

import numpy as np


def padded(array_QX, count):
    """The first count rows, or all and rows of zeros after them."""
    array_QX = array_QX[:count]
    return np.concatenate([array_QX, np.zeros((count - len(array_QX), *array_QX.shape[1:]), array_QX.dtype)])

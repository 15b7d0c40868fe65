"""Which way up a frame is shown: the display matrix of phones and editors, which may turn it, mirror it, or both."""

import math
import os
from typing import cast

import av
import numpy as np

from rvm_jax.data.video.container import FIX
from rvm_jax.errors import DataError

TOLERANCE = 1.0  # degrees, as in FFmpeg's own program


def orientation(path: str | os.PathLike, frame: av.VideoFrame) -> tuple[int, bool]:
    """(degrees, is mirrored): turn a stored frame counter-clockwise by so many, then swap left and right, if so.

    Degrees are 0, 90, 180 or 270. DataError for a matrix that asks for any other angle. One of zeros says nothing.
    """
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return 0, False
    a, b, _, c, d = (
        np.frombuffer(cast(bytes, matrix), np.int32, 9)[:5] / 2**16
    )  # x' = a x + c y, y' = b x + d y; y points down
    determinant = a * d - b * c
    if not determinant:
        return 0, False
    is_mirrored = bool(determinant < 0)
    degrees = math.degrees(math.atan2(-b, -a if is_mirrored else a))
    if abs(degrees / 90 - round(degrees / 90)) * 90 > TOLERANCE:
        raise DataError(path, f'is turned by {degrees:.0f} degrees, which is not a multiple of 90', FIX)
    return round(degrees / 90) * 90 % 360, is_mirrored


def upright(path: str | os.PathLike, frame: av.VideoFrame, rgb_HWC: np.ndarray) -> np.ndarray:
    """The pixels of a frame the way they are shown. DataError as in `orientation`."""
    degrees, is_mirrored = orientation(path, frame)
    rgb_HWC = np.rot90(rgb_HWC, degrees // 90)
    return np.ascontiguousarray(rgb_HWC[:, ::-1] if is_mirrored else rgb_HWC)

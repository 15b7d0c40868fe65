"""Which way up a frame is shown: the display matrix of phones and editors, which may turn it, mirror it, or both."""

import itertools
import math
import os
import re
from typing import cast

import av
import numpy as np

from rvm_jax.data.video.container import FIX
from rvm_jax.errors import DataError

TOLERANCE = 1.0  # degrees, as in FFmpeg's own program
# Where messages (SEI) begin in H.264 or H.265, behind a start code or a length; they lie before the picture.
MESSAGES = re.compile(rb'\x00\x00(?:\x01|..)(?:\x06|\x4e\x01)', re.DOTALL)
HEAD = 4096  # bytes of a packet
DISPLAY_ORIENTATION, MOST = 47, 8  # the kind of message, and bytes that it has at most
END = 0x80  # what follows the last message


def check_messages(path: str | os.PathLike, packet: av.Packet) -> None:
    """DataError if a video says in its pictures which way up they are; packet is its first.

    Such a message holds until another one, but FFmpeg turns the picture alone that has it.
    """
    head = bytes(memoryview(packet)[:HEAD])
    messages = itertools.chain.from_iterable(_messages(head[found.end() :]) for found in MESSAGES.finditer(head))
    if any(kind == DISPLAY_ORIENTATION and length <= MOST for kind, length in messages):
        raise DataError(path, 'says in single pictures which way up all are, which FFmpeg does not follow', FIX)


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


def _messages(data):
    """Yield (kind, length) of the messages that follow one another from the start of some bytes."""
    place = 0
    while place + 2 < len(data) and data[place] != END:
        numbers = []
        for _ in range(2):  # kind and length, each in bytes that are added up to the first below 255
            start = place
            while place < len(data) - 1 and data[place] == 255:
                place += 1
            numbers.append(255 * (place - start) + data[place])
            place = min(place + 1, len(data) - 1)
        kind, length = numbers
        yield kind, length
        place += length

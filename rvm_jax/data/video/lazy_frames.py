"""Frames of a clip, all of one size, decoded no sooner and no larger than they are needed."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import cv2
import numpy as np

from rvm_jax.errors import DataError

MAX_PIXELS = 64_000_000  # of one frame: twice 8K video; a larger one is damage or malice, and would exhaust the memory
MAX_BYTES = 2 * 2**30  # of the frames of one clip, decoded: 8 of MAX_PIXELS, or 80 of 4K
FIX = 'prepare the data again'
JPEG_START = b'\xff\xd8'
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers
ALONE = {0x00, 0x01, *range(0xD0, 0xD8)}  # what stands for no segment of a JPEG
ENDS = {0xD8, 0xD9, 0xDA}  # markers before which the size must have come
WEBP_LOSSLESS, WEBP_LOSSY = 0x2F, b'\x9d\x01\x2a'  # how the pictures in a WebP begin
PNG_START = b'\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR'
# JPEG can be decoded at these fractions of its size, saving work; in cv2, gray at a fraction means the fraction alone.
AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # the size in the header is that of the frame
READ_AS = {
    1: AS_STORED,
    2: AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


@dataclasses.dataclass(frozen=True)
class LazyFrames:
    """How many, height and width in pixels, and decode(shrink=1) -> as many frames HWC, uint8, RGB.

    shrink is 1, 2, 4 or 8: the side lengths are divided by it, rounding up, where the codec can decode at a fraction
    of its size; other codecs return the full size.
    """

    num_frames: int
    height: int
    width: int
    decode: Callable[..., Sequence[np.ndarray] | np.ndarray]

    def take(self, places: Sequence[int] | np.ndarray) -> 'LazyFrames':
        """LazyFrames of the frames with these numbers, in this order; one that is there twice is decoded once."""

        def decode(shrink=1):
            frames = self.decode(shrink)
            return [frames[place] for place in places]

        return LazyFrames(len(places), self.height, self.width, decode)


def decoded(frames_THWC: np.ndarray) -> LazyFrames:
    """LazyFrames of frames that are decoded already."""
    num_frames, height, width = frames_THWC.shape[:3]
    return LazyFrames(num_frames, height, width, lambda shrink=1: frames_THWC)


def encoded(name: str, blobs: Collection[bytes]) -> LazyFrames:
    """LazyFrames of JPEG, PNG or WebP files in memory, as they are stored; name says whose, in errors.

    DataError if one is no picture, too large, or of another size than the others; from decode, if it is damaged.
    """
    sizes = {image_size(name, blob) for blob in blobs}
    if len(sizes) > 1:
        raise DataError(name, 'changes its size between frames', FIX)
    height, width = sizes.pop()
    check_clip(name, len(blobs), height, width)
    return LazyFrames(len(blobs), height, width, functools.partial(_decode_images, name, blobs, height, width))


def image_size(name: str, blob: bytes) -> tuple[int, int]:
    """(height, width) from a picture's header. DataError if it has none or one that is too large."""
    size = _jpeg_size(blob) if blob.startswith(JPEG_START) else _png_size(blob) or _webp_size(blob)
    if size is None:
        raise DataError(name, 'holds something that is no picture (neither JPEG, PNG nor WebP)', FIX)
    check_size(name, *size)
    return size


def _jpeg_size(blob):
    """(height, width) of a JPEG; None if this is none.

    Its markers are looked for just as libjpeg does: a size that is not the one that will be decoded protects nobody.
    """
    place = len(JPEG_START)
    while (place := blob.find(0xFF, place)) >= 0:
        while blob[place : place + 1] == b'\xff':
            place += 1
        marker, segment = int.from_bytes(blob[place : place + 1]), blob[place + 1 : place + 8]
        if marker in START_OF_FRAME and len(segment) == 7:
            return int.from_bytes(segment[3:5], 'big'), int.from_bytes(segment[5:], 'big')
        if marker in ENDS or len(segment) < 2:
            return None
        place += 1 if marker in ALONE else 1 + max(int.from_bytes(segment[:2], 'big'), 2)
    return None


def _png_size(blob):
    if not blob.startswith(PNG_START) or len(blob) < len(PNG_START) + 8:
        return None
    width, height = (int.from_bytes(blob[start : start + 4], 'big') for start in (16, 20))
    return height, width


def _webp_size(blob):
    """(height, width) by the first part of a WebP: that of the whole, of a lossless or of a lossy picture."""
    if not (blob.startswith(b'RIFF') and blob[8:12] == b'WEBP' and len(blob) >= 26):
        return None
    kind, body = blob[12:16], blob[20:30]
    if kind == b'VP8X':
        width, height = (int.from_bytes(body[start : start + 3], 'little') + 1 for start in (4, 7))
    elif kind == b'VP8L' and body[0] == WEBP_LOSSLESS:
        bits = int.from_bytes(body[1:5], 'little')
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b'VP8 ' and body[3:6] == WEBP_LOSSY:
        width, height = (int.from_bytes(body[start : start + 2], 'little') & 0x3FFF for start in (6, 8))
    else:
        return None
    return height, width


def check_size(name: str, height: int, width: int) -> None:
    """DataError if one frame of that size would exhaust the memory."""
    if height * width > MAX_PIXELS:
        reason = f'has frames of {width} x {height} pixels, more than {MAX_PIXELS / 1e6:g} million'
        raise DataError(name, reason, 'scale it down')


def check_clip(name: str, num_frames: int, height: int, width: int) -> None:
    """DataError if so many frames of that size, decoded, would exhaust the memory."""
    size = num_frames * height * width * 3
    if size > MAX_BYTES:
        reason = f'needs {size / 2**30:.1f} GB for {num_frames} frames of {width} x {height} pixels'
        raise DataError(name, f'{reason}, more than {MAX_BYTES / 2**30:g}', 'scale it down, or take fewer frames')


def _decode_images(name, blobs, height, width, shrink=1):
    frames = []
    for blob in blobs:
        factor = shrink if blob.startswith(JPEG_START) else 1
        try:
            frame_HWC = cv2.imdecode(np.frombuffer(blob, np.uint8), READ_AS[factor])
        except cv2.error as error:
            raise DataError(name, f'holds a picture that cannot be decoded ({error.err})', FIX) from error
        if frame_HWC is None:
            raise DataError(name, 'holds a picture that cannot be decoded', FIX)
        if frame_HWC.shape[:2] != (-(-height // factor), -(-width // factor)):  # crops are drawn by the header
            raise DataError(name, 'holds a picture of another size than its header says', FIX)
        frames.append(frame_HWC)
    return frames

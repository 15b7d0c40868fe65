"""Frames of one item: a few of a video file, or picture files."""

import cv2
import numpy as np

from rvm_jax.data.video.decode import open_video
from rvm_jax.data.video.lazy_frames import encoded, image_size
from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import read_bytes


def read_video(path, choose, fps=None):
    """(frames (T, H, W, 3) uint8, their numbers): those that choose(total) says, counted at fps frames a second.

    fps None: at the rate of the file. DataError if the file cannot be read or states no rate.
    """
    with open_video(path) as video:
        fps = fps or video.info().fps
        if not fps:
            raise DataError(path, 'states no frame rate', 're-encode this video')
        numbers = choose(video.count(fps))
        return video.read(numbers, fps), numbers


def read_image(path):
    """(H, W, 3) uint8 of a picture file, as it is stored. DataError if it cannot be read."""
    return decode_image(path, read_bytes(path))


def decode_image(name, blob):
    """The same of a file in memory; name says whose, in errors."""
    return encoded(name, [blob]).decode()[0]


def read_images(paths):
    """The pictures of one clip, a list. DataError if one cannot be read, or has another size than the first."""
    frames = [read_image(path) for path in paths]
    for path, frame_HWC in zip(paths, frames, strict=True):
        if frame_HWC.shape != frames[0].shape:
            raise DataError(path, 'has another size than the first frame of its clip', 'download it again')
    return frames


def decode_raw(name, blob):
    """(H, W) or (H, W, C) of a PNG with the numbers that are in it, 8 or 16 bits. DataError if it cannot be read."""
    image_size(name, blob)
    try:
        values = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(name, f'holds a picture that cannot be decoded ({error.err})', 'download it again') from error
    if values is None:
        raise DataError(name, 'holds a picture that cannot be decoded', 'download it again')
    return values[..., ::-1] if values.ndim == 3 else values

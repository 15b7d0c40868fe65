"""Frames of one item: some frames of a video file, or picture files."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from rvm_jax.data.video.decode import open_video
from rvm_jax.data.video.lazy_frames import encoded, image_size
from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import read_bytes


def read_video(
    path: str, choose: Callable[[int], np.ndarray], fps: float | None = None, most_fps: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(frames (T, H, W, 3) uint8, their numbers): the frames that choose(total) returns, counted at fps per second.

    fps None means the rate of the file, or most_fps if that is less. DataError if the file cannot be read or does not
    state a rate.
    """
    with open_video(path) as video:
        fps = fps or min(filter(None, (video.info().fps, most_fps)), default=None)
        if not fps:
            raise DataError(path, 'does not state a frame rate', 're-encode this video')
        numbers = choose(video.count(fps))
        return video.read(numbers, fps), numbers


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file, as stored. DataError if it cannot be read."""
    return decode_image(path, read_bytes(path))


def decode_image(name: str, blob: bytes) -> np.ndarray:
    """The same for a file in memory; errors start with name."""
    return encoded(name, [blob]).decode()[0]


def read_images(paths: Sequence[str]) -> list[np.ndarray]:
    """The pictures of one clip. DataError if one cannot be read, or has another size than the first."""
    frames = [read_image(path) for path in paths]
    for path, frame_HWC in zip(paths, frames, strict=True):
        if frame_HWC.shape != frames[0].shape:
            raise DataError(path, 'has another size than the first frame of its clip', 'download it again')
    return frames


def decode_raw(name: str, blob: bytes) -> np.ndarray:
    """(H, W) or (H, W, C) of a PNG with its stored values, 8 or 16 bits. DataError if it cannot be read."""
    image_size(name, blob)
    try:
        values = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(name, f'holds a picture that cannot be decoded ({error.err})', 'download it again') from error
    if values is None:
        raise DataError(name, 'holds a picture that cannot be decoded', 'download it again')
    return values[..., ::-1] if values.ndim == 3 else values

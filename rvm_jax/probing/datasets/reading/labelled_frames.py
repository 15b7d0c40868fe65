"""Videos whose frames and labels are picture files in folders, for label propagation."""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from rvm_jax.data.video.lazy_frames import image_size
from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import MALFORMED, DatasetFiles, described, read_bytes
from rvm_jax.probing.datasets.reading.images import read_image


@dataclasses.dataclass(frozen=True)
class LabelledFrames:
    """One video: frames() yields num_frames pictures (H, W, 3) uint8, truth(t) is the label of frame t.

    A label is a mask (H, W) uint8, or keypoints (Q, 2): x, y in pixels.
    """

    id: str
    num_frames: int
    frames: Callable[[], Iterator[np.ndarray]]
    truth: Callable[[int], np.ndarray]


def read_frames(paths: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield (H, W, 3) uint8 of picture files. DataError if one cannot be read, or has another size than the first."""
    size = None
    for path in paths:
        frame_HWC = read_image(path)
        if frame_HWC.shape != (size or frame_HWC.shape):
            raise DataError(path, 'has another size than the first frame of its video', 'download it again')
        size = frame_HWC.shape
        yield frame_HWC


def read_labels(path: str) -> np.ndarray:
    """(H, W) uint8: the palette index, or the gray value, of each pixel. DataError if the picture has neither.

    This uses Pillow, because OpenCV replaces palette indices by their colors.
    """
    blob = read_bytes(path)
    image_size(path, blob)
    try:
        with Image.open(io.BytesIO(blob), formats=('PNG', 'JPEG')) as image:
            if image.mode not in ('P', 'L'):
                raise DataError(path, f'holds colors ({image.mode}), not labels', 'download it again')
            return np.asarray(image)
    except (OSError, SyntaxError, *MALFORMED) as error:  # Pillow raises any of these for a damaged PNG
        reason = f'holds a picture that cannot be decoded ({described(error)})'
        raise DataError(path, reason, 'download it again') from error


def list_pictures(origin: DatasetFiles, root: str, folder: str, what: str) -> list[str]:
    """Paths of the .jpg and .png files in root/folder by name. UserError if there are none."""
    path = os.path.join(root, folder)
    names = os.listdir(path) if os.path.isdir(path) else []
    pictures = sorted(name for name in names if name.lower().endswith(('.jpg', '.png')) and name[0] != '.')
    if not pictures:
        raise origin.missing(path, what, root)
    return [os.path.join(path, name) for name in pictures]


def masked_video(name: str, pictures: Sequence[str], masks: Sequence[str]) -> LabelledFrames:
    """LabelledFrames of files; frames after the last mask are not read. DataError if there are more masks."""
    if len(masks) > len(pictures):
        raise DataError(
            os.path.dirname(masks[0]), f'has {len(masks)} masks for {len(pictures)} frames', 'download it again'
        )
    frames = functools.partial(read_frames, pictures[: len(masks)])
    return LabelledFrames(name, len(masks), frames, lambda t: read_labels(masks[t]))

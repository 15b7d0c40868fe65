"""Videos whose frames and labels are picture files in folders, for label propagation."""

import dataclasses
import functools
import io
import logging
import os
import re
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
            if image.mode not in ('P', 'L', '1'):  # 1: one bit for each pixel, 0 or 1
                raise DataError(path, f'holds colors ({image.mode}), not labels', 'download it again')
            return np.asarray(image).astype(np.uint8) // _spread(image, blob)
    except (OSError, SyntaxError, *MALFORMED) as error:  # Pillow raises any of these for a damaged PNG
        reason = f'holds a picture that cannot be decoded ({described(error)})'
        raise DataError(path, reason, 'download it again') from error


def _spread(image, blob):
    """By how much Pillow multiplies the values of a gray PNG of 2 or 4 bits, to make the largest one 255."""
    depth, kind = blob[24:26]
    is_gray_png = image.format == 'PNG' and kind == 0
    return {2: 85, 4: 17}.get(depth, 1) if is_gray_png else 1


def list_pictures(origin: DatasetFiles, root: str, folder: str, what: str) -> list[str]:
    """Paths of the .jpg and .png files in root/folder by name, 9 before 10. UserError if there are none."""
    path = os.path.join(root, folder)
    names = os.listdir(path) if os.path.isdir(path) else []
    pictures = [name for name in names if name.lower().endswith(('.jpg', '.png')) and name[0] != '.']
    if not pictures:
        raise origin.missing(path, what, root)
    return [os.path.join(path, name) for name in sorted(pictures, key=_name_key)]


def paired(origin: DatasetFiles, pictures: list[str], masks: list[str]) -> tuple[list[str], list[str]]:
    """(frames, masks) of one video that have the same name, in order, whatever their extensions.

    Frames after the last mask are left out, which a warning counts. UserError that names what has no partner: frame
    and mask of different moments would give a score, and a wrong one.
    """
    frames_by_name, masks_by_name = (_by_name(origin, paths) for paths in (pictures, masks))
    last = max(masks_by_name)
    scored = [name for name in frames_by_name if name <= last]
    for names, mine, others, what in (
        (masks_by_name, masks_by_name, frames_by_name, 'frame'),
        (scored, frames_by_name, masks_by_name, 'mask'),
    ):
        alone = [mine[name] for name in names if name not in others]
        if alone:
            raise origin.broken(os.path.dirname(alone[0]), f'does not have a {what} for {_some(alone)}')
    if beyond := [frames_by_name[name] for name in frames_by_name if name > last]:
        logging.getLogger(__name__).warning(
            '%s: frames after the last mask are left out (%d): %s',
            os.path.dirname(beyond[0]),
            len(beyond),
            _some(beyond),
        )
    return [frames_by_name[name] for name in scored], [masks_by_name[name] for name in scored]


def check_numbered(origin: DatasetFiles, pictures: list[str]) -> None:
    """UserError that names the first frame that is missing, where labels belong to frames 0, 1, 2 ... or 1, 2, 3 ..."""
    numbers = [os.path.splitext(os.path.basename(path))[0] for path in pictures]
    found = [int(number) if number.isdecimal() else None for number in numbers]
    wanted = 0 if found[0] == 0 else 1
    for number, name in zip(found, pictures, strict=True):
        if number != wanted:
            reason = f'does not have frame {wanted} ({os.path.basename(name)} is in its place)'
            raise origin.broken(os.path.dirname(name), reason)
        wanted += 1


def masked_video(name: str, pictures: Sequence[str], masks: Sequence[str]) -> LabelledFrames:
    """LabelledFrames of files that are `paired`."""
    return LabelledFrames(name, len(masks), functools.partial(read_frames, pictures), lambda t: read_labels(masks[t]))


def _by_name(origin, paths):
    """{name without extension, as `_name_key` has it: path}. UserError where two have the same."""
    found = {}
    for path in paths:
        other = found.setdefault(_name_key(path), path)
        if other != path:
            raise origin.broken(path, f'has the name of {os.path.basename(other)}')
    return found


def _name_key(path):
    """What pictures are ordered and paired by: a number counts as one, 00009 like 9."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r'([0-9]+)', stem))


def _some(paths):
    names = [os.path.basename(path) for path in paths]
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')

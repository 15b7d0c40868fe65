"""ScanNet: depth of rooms, in meters (RVM, section 11; WALT probes).

root holds scannetv2_train.txt and scannetv2_val.txt (one scene name per line) and the scenes as the SensReader of
ScanNet exports them, in scans/<scene>/ or <scene>/: color/<number>.jpg and depth/<number>.png (uint16, millimeters).
"""

import itertools
import os
from typing import Any

import numpy as np

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split, read_bytes
from rvm_jax.probing.datasets.reading.images import decode_raw, read_images
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, random_crop

ORIGIN = DatasetFiles(
    'ScanNet v2',
    'www.scan-net.org',
    'scannetv2_train.txt, scannetv2_val.txt and scans/<scene>/{color/*.jpg,depth/*.png} (by SensReader)',
)
SPLITS = {'train': 'scannetv2_train.txt', 'val': 'scannetv2_val.txt'}


class ScanNet:
    """example(index): id, video_THWC, depth_THW: num_frames frames of a scene, stride apart, at 30 frames per second.

    Training starts anywhere, evaluation at frame 0. Both see the central square, because no crop is published; with
    crop_area, such as (0.3, 1.0), training has a random crop. Depth takes the nearest pixel of the same crop. It is 0
    where it was not measured, and beyond max_depth meters if that is set.
    UserError if a list or a scene is missing; DataError if a picture cannot be read.
    """

    def __init__(self, root, split, *, num_frames=16, image_size=224, stride=1, crop_area=None, max_depth=None):
        table = ORIGIN.find(root, 'list of scenes', checked_split(split, SPLITS))
        scans = ORIGIN.find(root, 'the scenes', 'scans', '.')
        self.items = [os.path.join(scans, name) for name in ORIGIN.names(table, 'scene')]
        for place in self.items:
            for folder in ('color', 'depth'):
                if not os.path.isdir(os.path.join(place, folder)):
                    raise ORIGIN.missing(os.path.join(place, folder), f'a scene of {SPLITS[split]}', root)
        self.num_frames = num_frames
        self._window = {'num_frames': num_frames, 'stride': stride, 'start': 'first'}
        self._image_size, self._crop_area, self._max_depth = image_size, crop_area, max_depth

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and its depth in meters, float32."""
        place = self.items[index]
        names = _numbered(os.path.join(place, 'color'))
        chosen = [names[i] for i in choose_frames(rng, len(names), name=place, **self._window)]
        frames = read_images([os.path.join(place, 'color', name) for name in chosen])
        depth_THW = _read_depth([os.path.join(place, 'depth', f'{os.path.splitext(name)[0]}.png') for name in chosen])
        if self._max_depth is not None:
            depth_THW[depth_THW > self._max_depth] = 0
        size = frames[0].shape[:2]
        if rng is None or self._crop_area is None:
            crop = central_crop(*size)
        else:
            crop = random_crop(rng, *size, area=self._crop_area)
        return {
            'id': os.path.basename(place),
            'video_THWC': crop.frames(frames, self._image_size),
            'depth_THW': crop.maps(depth_THW, self._image_size),
        }


def _numbered(folder):
    """Names of the pictures in a folder by their number: 10.jpg comes after 9.jpg."""
    names = [name for name in os.listdir(folder) if os.path.splitext(name)[0].isdigit()]
    if not names:
        raise DataError(folder, 'does not hold a picture', 'export the scene again')
    numbers = {int(os.path.splitext(name)[0]): name for name in names}
    ordered = sorted(numbers)
    steps = {after - before for before, after in itertools.pairwise(ordered)}
    if len(steps) > 1:  # a clip would jump there
        step = min(steps)
        gap = next(before for before, after in itertools.pairwise(ordered) if after - before != step)
        raise DataError(folder, f'does not have picture {gap + step} after {numbers[gap]}', 'export the scene again')
    return [numbers[number] for number in ordered]


def _read_depth(paths):
    """(T, H, W) float32 meters of PNG files."""
    maps = [decode_raw(path, read_bytes(path)) for path in paths]
    for path, depth_HW in zip(paths, maps, strict=True):
        if depth_HW.dtype != np.uint16 or depth_HW.shape != maps[0].shape or depth_HW.ndim != 2:
            raise DataError(path, 'is not a 16-bit depth map, or its size changes', 'export the scene again')
    return np.stack(maps).astype(np.float32) / 1000

"""JHMDB: 15 joints of one person in short videos (RVM, nearest-neighbor evaluation).

root holds splits/<class>_test_split1.txt (lines '<video>.avi 1' for training, 2 for test),
Rename_Images/<class>/<video>/*.png and joint_positions/<class>/<video>/joint_positions.mat, whose pos_img is x, y of
each joint in each frame, starting at 1.
"""

import functools
import os

import numpy as np

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_frames import (
    LabelledFrames,
    check_numbered,
    list_pictures,
    read_frames,
)
from rvm_jax.probing.datasets.reading.matlab import read_mat

ORIGIN = DatasetFiles(
    'JHMDB',
    'jhmdb.is.tue.mpg.de',
    'splits/<class>_test_split1.txt, Rename_Images/<class>/<video>/*.png and '
    'joint_positions/<class>/<video>/joint_positions.mat',
)
SPLITS = {'train': '1', 'val': '2'}
TABLE = '_test_split1.txt'  # the first of three splits, which papers report
POSITIONS = 'joint_positions.mat'
NUM_JOINTS = 15


class Jhmdb:
    """video(index): LabelledFrames with 15 joints in each frame, x, y in pixels starting at 0.

    UserError if the lists, or frames or joints of a video in them, are missing.
    """

    def __init__(self, root, split='val'):
        folder, wanted = ORIGIN.find(root, 'lists of videos', 'splits'), checked_split(split, SPLITS)
        tables = sorted(name for name in os.listdir(folder) if name.endswith(TABLE))
        if not tables:
            raise ORIGIN.missing(os.path.join(folder, f'*{TABLE}'), 'lists of videos', root)
        self.items = []
        for table in tables:
            for name in _videos(os.path.join(folder, table), wanted):
                place = f'{table.removesuffix(TABLE)}/{name}'
                pictures = list_pictures(ORIGIN, root, f'Rename_Images/{place}', 'frames of a video')
                joints = ORIGIN.find(root, 'joints of a video', f'joint_positions/{place}/{POSITIONS}')
                check_numbered(ORIGIN, pictures)  # joints have no names, only an order
                self.items.append((place, pictures, joints))
        if not self.items:
            raise ORIGIN.broken(folder, f'does not list a video of {split}')

    def __len__(self) -> int:
        return len(self.items)

    def video(self, index: int) -> LabelledFrames:
        """The video; its frames are read when they are needed. DataError if its joints cannot be read."""
        place, pictures, path = self.items[index]
        joints_TQ2 = _read_joints(path)
        if len(joints_TQ2) > len(pictures):
            raise DataError(
                path, f'has joints of {len(joints_TQ2)} frames for {len(pictures)} pictures', 'download it again'
            )
        frames = functools.partial(read_frames, pictures[: len(joints_TQ2)])
        return LabelledFrames(place, len(joints_TQ2), frames, joints_TQ2.__getitem__)


def _videos(path, wanted):
    with ORIGIN.reading(path):
        pairs = [tuple(line.split()) for line in ORIGIN.lines(path)]
        return [ORIGIN.inside(path, os.path.splitext(name)[0]) for name, part in pairs if part == wanted]


def _read_joints(path):
    """(T, 15, 2) float64."""
    with ORIGIN.reading_item(path):
        positions = read_mat(path, 'pos_img')
        if positions.dtype.kind not in 'fiu' or positions.shape[:2] != (2, NUM_JOINTS):
            raise ValueError(f'pos_img of {positions.dtype} {positions.shape} does not hold joints')
        return positions.astype(np.float64).transpose(2, 1, 0) - 1

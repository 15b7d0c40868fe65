"""RealEstate10K: how the camera moved through a house (WALT probes).

root holds train/*.txt and test/*.txt as downloaded (or in RealEstate10K/), and the frames, which have to be extracted
from the videos: frames/<train or test>/<clip>/<timestamp>.jpg (or .png), one picture for each line of <clip>.txt, named
by the number at the start of the line.
"""

import os
from typing import Any

import numpy as np

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split, read_bytes
from rvm_jax.probing.datasets.reading.images import read_images
from rvm_jax.probing.datasets.reading.labelled_clips import say_missing
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, poses

ORIGIN = DatasetFiles(
    'RealEstate10K',
    'google.github.io/realestate10k; frames from the videos',
    'train/*.txt, test/*.txt and frames/<split>/<clip>/<timestamp>.jpg',
)
SPLITS = {'train': 'train', 'val': 'test'}
NUM_COLUMNS = 19  # time, 6 intrinsics, 12 numbers of the pose


class RealEstate10K:
    """example(index): id, video_THWC, pose_34: [R|t] that maps coordinates of the first camera to those of the last.

    num_frames frames of a clip, stride lines of its text apart: anywhere in training, else the center; the central
    square. Clips whose frames are no longer on the web are left out: `missing` counts them, and a warning says so.
    metric_scale is {clip: meters per unit}, or the path of a JSON file with it; without it t is in the unit of the
    dataset, which differs between clips (how it was made metric is unpublished). Our choice, because unpublished: the
    stride, and which window is evaluated.
    UserError if texts or all frames are missing; DataError if a text or picture cannot be read.
    """

    def __init__(self, root, split, *, num_frames=17, image_size=224, stride=1, metric_scale=None):
        name = checked_split(split, SPLITS)
        texts = ORIGIN.find(root, 'camera poses', name, f'RealEstate10K/{name}')
        pictures = ORIGIN.find(root, 'frames', f'frames/{name}')
        clips = sorted(os.path.splitext(text)[0] for text in os.listdir(texts) if text.endswith('.txt'))
        if not clips:
            raise ORIGIN.missing(os.path.join(texts, '*.txt'), 'camera poses', root)
        there = set(os.listdir(pictures))
        self.items = [(c, os.path.join(texts, f'{c}.txt'), os.path.join(pictures, c)) for c in clips if c in there]
        self.missing = len(clips) - len(self.items)
        if not self.items:
            raise ORIGIN.missing(os.path.join(pictures, clips[0]), 'frames, like those of every other clip', root)
        say_missing('RealEstate10K', split, self.missing, len(clips))
        self.num_frames = num_frames
        self._window = {'num_frames': num_frames, 'stride': stride}
        self._image_size, self._metric_scale = image_size, _scales(metric_scale)

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and the motion of its camera."""
        clip, text, folder = self.items[index]
        times, cameras_L44 = _read_text(text)
        chosen = choose_frames(rng, len(times), name=text, **self._window)
        there = set(os.listdir(folder))
        frames = read_images([_picture(folder, there, times[i]) for i in chosen])
        first, last = cameras_L44[chosen[0]], cameras_L44[chosen[-1]]
        with ORIGIN.reading_item(text):
            motion_34 = (last @ np.linalg.inv(first))[:3]
        if self._metric_scale is not None:
            if clip not in self._metric_scale:
                raise DataError(clip, 'does not have a metric_scale', 'add it, or leave the clip out')
            motion_34[:, 3] *= self._metric_scale[clip]
        return {
            'id': clip,
            'video_THWC': central_crop(*frames[0].shape[:2]).frames(frames, self._image_size),
            'pose_34': motion_34.astype(np.float32),
        }


def _picture(folder, there, time):
    return os.path.join(folder, f'{time}.png' if f'{time}.png' in there else f'{time}.jpg')


def _scales(given):
    """{clip: meters per unit}, read from a file if a path is given; None stays None. UserError for anything else."""
    if given is None or isinstance(given, dict):
        return given
    if not isinstance(given, str) or not os.path.isfile(given):
        raise UserError(f'metric_scale {given}', 'does not exist', 'name a JSON file of {clip: meters per unit}')
    with ORIGIN.reading(given):
        return {clip: float(scale) for clip, scale in ORIGIN.json(given).items()}


def _read_text(path):
    """(times as text, cameras (L, 4, 4): world to camera). DataError if the text has another format."""
    lines = read_bytes(path).decode(errors='replace').splitlines()[1:]  # the first is the address of the video
    rows = [line.split() for line in lines if line.strip()]
    try:
        values_LX = np.array([[float(value) for value in row] for row in rows]).reshape(-1, NUM_COLUMNS)
    except ValueError as error:
        raise DataError(path, f'has a line without {NUM_COLUMNS} numbers', 'download it again') from error
    cameras_L34 = values_LX[:, 7:].reshape(-1, 3, 4)
    with ORIGIN.reading_item(path):
        return [row[0] for row in rows], poses(cameras_L34[..., :3], cameras_L34[..., 3])

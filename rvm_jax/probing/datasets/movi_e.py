"""Kubric MOVi-E: rendered clips with point tracks computed from the scene (4DS; TAP-Vid). It trains point readouts.

root is the folder of TFDS, with movi_e/256x256/1.0.0/ in it, or that folder itself: TFRecord files
movi_e-train.tfrecord-00000-of-01024 ... as in gs://kubric-public/tfds. Neither TFDS nor TensorFlow is needed.
"""

import bisect
import functools
import glob
import itertools
import os
import re
from typing import Any

import numpy as np

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.kubric_tracks import Camera, choose_pixels, track
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.images import decode_image, decode_raw
from rvm_jax.probing.datasets.reading.tfrecord import message_classes, read_record, record_places
from rvm_jax.probing.datasets.reading.transforms import (
    central_crop,
    choose_frames,
    padded,
    random_colors,
    random_crop,
    rotations,
)

ORIGIN = DatasetFiles('Kubric MOVi-E', 'gs://kubric-public/tfds/movi_e', 'movi_e/256x256/1.0.0/movi_e-train.tfrecord-*')
SPLITS = {'train': 'train', 'val': 'validation'}
FOLDERS = ('movi_e/256x256/1.0.0', '256x256/1.0.0', '1.0.0', '.')
# tf.train.Example. The value of a feature stays bytes until it is used, because most of a record never is.
EXAMPLE = {
    'Example': {'features': (1, 'Features')},
    'Features': {'feature': (1, 'repeated Entry')},
    'Entry': {'key': (1, 'string'), 'value': (2, 'bytes')},
    'Feature': {'bytes_list': (1, 'BytesList'), 'float_list': (2, 'FloatList')},
    'BytesList': {'value': (1, 'repeated bytes')},
    'FloatList': {'value': (1, 'repeated float')},
}


class MoviE:
    """example(index): id, video_THWC, queries_Q3, tracks_QT2, visible_QT, in_scene_QT, valid_Q with Q num_tracks.

    num_frames consecutive frames of the 24: anywhere in training, else the center. Training has a random crop and
    random colors, evaluation whole frames. Points are pixels of the first frame of the clip inside the crop, drawn
    again each time, but always the same without rng. in_scene: in front of the camera and inside the crop, hidden or
    not.
    Our choice: points of the first frame only (the published sampler also takes points of later frames, and its losses
    leave out those that are hidden in the first), and the strengths of the colors.
    UserError if files are missing; DataError if one is damaged.
    """

    def __init__(
        self, root, split, *, num_frames=16, image_size=224, num_tracks=64, crop_area=(0.3, 1.0),
        crop_ratio=(0.5, 2.0), colors=True,
    ):  # fmt: skip
        self._files = _files(root, checked_split(split, SPLITS))
        self._places = [record_places(path) for path in self._files]
        self._ends = list(itertools.accumulate(map(len, self._places)))
        if not self._ends[-1]:
            raise ORIGIN.broken(self._files[0], f'does not hold an example, like all {split} files')
        self.num_frames, self._image_size, self._num_tracks = num_frames, image_size, num_tracks
        self._crop_area, self._crop_ratio, self._has_colors = crop_area, crop_ratio, colors

    def __len__(self) -> int:
        return self._ends[-1]

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and its tracks."""
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0)
        path = self._files[shard]
        where, name = f'{path} example {position}', f'{os.path.basename(path)}:{position}'
        with ORIGIN.reading_item(where):
            scene = Scene(where, read_record(path, self._places[shard][position]))
            return {'id': name, **self._clip(scene, index, rng)}

    def _clip(self, scene, index, rng):
        chosen = choose_frames(rng, scene.num_frames, num_frames=self.num_frames, stride=1, name=scene.name)
        frames = scene.frames(chosen)
        size = frames[0].shape[:2]
        if rng is None:
            crop = central_crop(*size)
        else:
            crop = random_crop(rng, *size, area=self._crop_area, ratio=self._crop_ratio)
        segments_THW = scene.segments(chosen)
        pixel_rng = np.random.default_rng(index) if rng is None else rng
        pixels_Q2 = choose_pixels(pixel_rng, segments_THW[0], crop.box, self._num_tracks)
        found = track(pixels_Q2, scene.depth(chosen), segments_THW, *scene.objects(chosen), camera=scene.camera(chosen))
        video_THWC = crop.frames(frames, self._image_size)
        if rng is not None and self._has_colors:
            video_THWC = random_colors(rng, video_THWC)
        return {'video_THWC': video_THWC, **_tracks_in_crop(crop, *found, self._num_tracks)}


def _tracks_in_crop(crop, tracks_QT2, visible_QT, in_front_QT, num_tracks):
    tracks_QT2 = crop.points(tracks_QT2)
    in_scene_QT = in_front_QT & ((tracks_QT2 >= 0) & (tracks_QT2 <= 1)).all(-1)
    queries_Q3 = np.concatenate([np.zeros((len(tracks_QT2), 1), np.float32), tracks_QT2[:, 0]], 1)
    arrays = {
        'queries_Q3': queries_Q3,
        'tracks_QT2': tracks_QT2,
        'visible_QT': visible_QT & in_scene_QT,
        'in_scene_QT': in_scene_QT,
        'valid_Q': visible_QT[:, 0] & in_scene_QT[:, 0],
    }
    return {name: padded(array, num_tracks) for name, array in arrays.items()}


class Scene:
    """One record; each part is decoded when it is used."""

    def __init__(self, name: str, blob: bytes) -> None:
        self.name = name
        entries = _read_message(name, 'Example', blob).features.feature
        self._features = {entry.key: entry.value for entry in entries}
        self.num_frames = len(self._blobs('video'))

    def frames(self, chosen: np.ndarray) -> list[np.ndarray]:
        """List of HWC uint8."""
        blobs = self._blobs('video')
        return [decode_image(self.name, blobs[i]) for i in chosen]

    def segments(self, chosen: np.ndarray) -> np.ndarray:
        """(T, H, W): 0 for the background, k + 1 for object k."""
        blobs = self._blobs('segmentations')
        return np.stack([decode_raw(self.name, blobs[i]) for i in chosen])

    def depth(self, chosen: np.ndarray) -> np.ndarray:
        """(T, H, W) distances from the camera's center."""
        blobs, (low, high) = self._blobs('depth'), self._floats('metadata/depth_range')
        return np.stack([decode_raw(self.name, blobs[i]) for i in chosen]) / 65535.0 * (high - low) + low

    def objects(self, chosen: np.ndarray) -> list[np.ndarray]:
        """positions_KT3, quaternions_KT4 (w, x, y, z)."""
        found = [self._floats(f'instances/{name}', -1, self.num_frames, size) for name, size in SIZES]
        return [array[:, chosen] for array in found]

    def camera(self, chosen: np.ndarray) -> Camera:
        """The Camera of the chosen frames."""
        positions, quaternions = (self._floats(f'camera/{name}', self.num_frames, size)[chosen] for name, size in SIZES)
        focal = self._floats('camera/focal_length')[0] / self._floats('camera/sensor_width')[0]
        return Camera(focal, positions, rotations(quaternions))

    def _feature(self, name):
        if name not in self._features:
            raise DataError(self.name, f'does not have {name}', 'download MOVi-E again: config 256x256')
        return _read_message(self.name, 'Feature', self._features[name])

    def _blobs(self, name):
        return self._feature(name).bytes_list.value

    def _floats(self, name, *shape):
        values = np.array(self._feature(name).float_list.value, np.float64)
        return values.reshape(shape) if shape else values


SIZES = (('positions', 3), ('quaternions', 4))


def _read_message(name, kind, blob):
    from google.protobuf.message import DecodeError

    try:
        return _messages()[kind].FromString(blob)
    except DecodeError as error:
        raise DataError(name, f'is damaged ({error})', 'download it again') from error


@functools.cache
def _messages():
    return message_classes('rvm_jax.tf_example', EXAMPLE)


def _files(root, split):
    """The files of a split in order. UserError if one is missing."""
    pattern = f'movi_e-{split}.tfrecord-*-of-*'
    for folder in FOLDERS:
        paths = glob.glob(os.path.join(glob.escape(os.path.join(root, folder)), pattern))
        found = sorted(path for path in paths if path.rpartition('-of-')[2].isdecimal())  # not a partial download
        if found:
            break
    else:
        raise ORIGIN.missing(os.path.join(root, FOLDERS[0], pattern), f'{split} files', root)
    total = int(found[0].rpartition('-of-')[2])
    there, whole = set(found), []
    for number in range(total):  # found[0] may claim any number
        whole.append(re.sub(r'-\d+-of-', f'-{number:05d}-of-', found[0]))
        if whole[-1] not in there:
            raise ORIGIN.missing(whole[-1], f'one of {total} {split} files', root)
    return whole

"""nuScenes: how a car moved from frame to frame, from its front camera (arXiv 2605.19137).

root holds v1.0-trainval/*.json (or v1.0-mini/), samples/CAM_FRONT/ and sweeps/CAM_FRONT/. The tables of the full
dataset have 2.6 million entries: opening them takes a minute and about 10 GB of memory, which is freed afterwards.
"""

import collections
import os
from typing import Any

import numpy as np

from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.images import read_images
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, poses, rotations

ORIGIN = DatasetFiles(
    'nuScenes v1.0', 'nuscenes.org', 'v1.0-trainval/*.json, samples/CAM_FRONT/*.jpg and sweeps/CAM_FRONT/*.jpg'
)
VERSIONS = ('v1.0-trainval', 'v1.0-mini')
# Numbers of the scenes of the official validation split, as (first, last); all others are for training.
VALIDATION = (
    (3, 3), (12, 18), (35, 36), (38, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524),
    (552, 565), (625, 627), (629, 630), (632, 638), (770, 771), (775, 775), (777, 778), (780, 784), (794, 800),
    (802, 802), (904, 917), (919, 931), (962, 963), (966, 969), (971, 972), (1059, 1073),
)  # fmt: skip


class NuScenes:
    """example(index): id, video_THWC, translations_T3 (meters), rotations_T33, known_T: one clip of a scene.

    num_frames frames, stride apart, at about 12 frames per second (keyframes and sweeps, whose spacing varies):
    anywhere in training, else the center of the scene; the central square. Motion t maps coordinates of camera t to
    those of camera t - 1 (x right, y down, z forward: driving forward is a positive z). Frame 0 has the identity, not
    known. Our choice, because unpublished: which clip of a scene is evaluated.
    UserError if a table or picture folder is missing; DataError if a picture cannot be read.
    """

    def __init__(self, root, split, *, num_frames=16, image_size=224, stride=1, camera='CAM_FRONT'):
        is_validation = checked_split(split, {'train': False, 'val': True})
        tables = ORIGIN.find(root, 'tables', *VERSIONS)
        for folder in ('samples', 'sweeps'):
            ORIGIN.find(root, 'pictures', f'{folder}/{camera}')
        self._root = root
        with ORIGIN.reading(tables):
            self.items = _scenes(root, tables, camera, is_validation)
        if not self.items:
            raise ORIGIN.missing(os.path.join(tables, 'scene.json'), f'scenes for {split} with {camera}', root)
        self.num_frames = num_frames
        self._window = {'num_frames': num_frames, 'stride': stride}
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and the motion of its camera."""
        name, pictures, cameras_L44 = self.items[index]
        chosen = choose_frames(rng, len(pictures), name=name, **self._window)
        frames = read_images([os.path.join(self._root, pictures[i]) for i in chosen])
        cameras_T44 = cameras_L44[chosen]
        motion_T44 = np.tile(np.eye(4), (len(chosen), 1, 1))
        with ORIGIN.reading_item(name):
            motion_T44[1:] = np.linalg.inv(cameras_T44[:-1]) @ cameras_T44[1:]
        return {
            'id': name,
            'video_THWC': central_crop(*frames[0].shape[:2]).frames(frames, self._image_size),
            'translations_T3': motion_T44[:, :3, 3].astype(np.float32),
            'rotations_T33': motion_T44[:, :3, :3].astype(np.float32),
            'known_T': np.arange(len(chosen)) > 0,
        }


def _is_validation(scene):
    number = int(scene.rpartition('-')[2])
    return any(first <= number <= last for first, last in VALIDATION)


def _scenes(root, tables, camera, is_validation):
    """[(name, file names, poses (L, 4, 4) camera to world), ...] by name; pictures in order of time."""
    names = {e['token']: e['name'] for e in _table(root, tables, 'scene') if _is_validation(e['name']) == is_validation}
    sensors = {e['token'] for e in _table(root, tables, 'sensor') if e['channel'] == camera}
    mounts = {e['token']: e for e in _table(root, tables, 'calibrated_sensor') if e['sensor_token'] in sensors}
    scenes = {e['token']: e['scene_token'] for e in _table(root, tables, 'sample') if e['scene_token'] in names}
    shots = collections.defaultdict(list)
    for entry in _table(root, tables, 'sample_data'):
        if entry['calibrated_sensor_token'] in mounts and entry['sample_token'] in scenes:
            shots[scenes[entry['sample_token']]].append(entry)
    wanted = {entry['ego_pose_token'] for entries in shots.values() for entry in entries}
    cars = {e['token']: e for e in _table(root, tables, 'ego_pose') if e['token'] in wanted}
    items = []
    for scene, entries in sorted(shots.items(), key=lambda item: names[item[0]]):
        entries.sort(key=lambda entry: entry['timestamp'])
        car_L44 = _poses([cars[entry['ego_pose_token']] for entry in entries])
        mount_L44 = _poses([mounts[entry['calibrated_sensor_token']] for entry in entries])
        items.append(
            (names[scene], [ORIGIN.inside(tables, entry['filename']) for entry in entries], car_L44 @ mount_L44)
        )
    return items


def _table(root, tables, name):
    return ORIGIN.json(ORIGIN.find(root, 'a table', f'{os.path.basename(tables)}/{name}.json'))


def _poses(entries):
    return poses(rotations([entry['rotation'] for entry in entries]), [entry['translation'] for entry in entries])

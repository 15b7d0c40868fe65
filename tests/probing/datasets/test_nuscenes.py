import json

import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.nuscenes import VALIDATION, NuScenes

KINDS = {
    'video_THWC': ((4, 32, 32, 3), np.uint8),
    'translations_T3': ((4, 3), np.float32),
    'rotations_T33': ((4, 3, 3), np.float32),
    'known_T': ((4,), bool),
}
HOW = {'num_frames': 4, 'image_size': 32}
FORWARD = [0.5, -0.5, 0.5, -0.5]  # a camera whose z points where the car's x does, and whose x to the car's right
TURN = 0.05  # radians to the left, per frame


def car(i):
    """The car drives 1 m along x and turns to the left, frame by frame."""
    angle = TURN * i
    return {'translation': [100.0 + i, 50.0, 0.0], 'rotation': [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]}


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    """Scenes 3 (validation) and 4 (training) of 10 frames each, every other one a keyframe, in no order."""
    tables = {name: [] for name in ('scene', 'sample', 'sample_data', 'ego_pose')}
    tables['sensor'] = [{'token': 's1', 'channel': 'CAM_FRONT'}, {'token': 's2', 'channel': 'CAM_BACK'}]
    tables['calibrated_sensor'] = [
        {'token': f'c{i}', 'sensor_token': f's{i}', 'translation': [1.5, 0, 1.6], 'rotation': FORWARD} for i in (1, 2)
    ]
    for scene in ('scene-0003', 'scene-0004'):
        tables['scene'].append({'token': f't{scene}', 'name': scene})
        for i in reversed(range(10)):
            folder = 'samples' if i % 2 == 0 else 'sweeps'
            key = f'{scene}-{i}'
            shot = {'ego_pose_token': key, 'timestamp': 80_000 * i, 'is_key_frame': i % 2 == 0}
            shot.update(sample_token=f'{scene}-{i // 2}', filename=f'{folder}/CAM_FRONT/{key}.jpg')
            tables['sample_data'].append({'token': key, 'calibrated_sensor_token': 'c1', **shot})
            tables['sample_data'].append({**shot, 'calibrated_sensor_token': 'c2', 'filename': 'other.jpg'})
            tables['ego_pose'].append({'token': key, **car(i)})
            write_image(tmp_path / shot['filename'], draw_marker(0.4 + 0.02 * i, 0.5, 64, 36))
            if i % 2 == 0:
                tables['sample'].append({'token': f'{scene}-{i // 2}', 'scene_token': f't{scene}'})
    (tmp_path / 'v1.0-mini').mkdir()
    for name, table in tables.items():
        (tmp_path / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(table))
    return tmp_path


def test_driving_on_is_a_positive_z(root, check_source):
    source = NuScenes(root, 'val', **HOW)
    assert len(source) == 1
    example, _ = check_source(source, 0, KINDS)
    assert example['id'] == 'scene-0003' and example['known_T'].tolist() == [False, True, True, True]
    np.testing.assert_array_equal(example['translations_T3'][0], 0)
    np.testing.assert_array_equal(example['rotations_T33'][0], np.eye(3))
    assert (example['translations_T3'][1:, 2] > 0.9).all() and (abs(example['translations_T3'][1:, 1]) < 1e-6).all()
    cos, sin = np.cos(TURN), np.sin(TURN)  # to the left: a point ahead of camera t is at a negative x in camera t - 1
    np.testing.assert_allclose(example['rotations_T33'][1], [[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], atol=1e-6)


def test_frames_and_motions_belong_together(root, find_marker):
    source = NuScenes(root, 'train', **HOW)
    for seed in range(6):
        example = source.example(0, np.random.default_rng(seed))
        x = [0.5 + (find_marker(frame)[0] - 0.5) * 36 / 64 for frame in example['video_THWC']]
        numbers = np.rint((np.array(x) - 0.4) / 0.02).astype(int)
        assert (np.diff(numbers) == 1).all()
        angle = TURN * numbers[0]  # of the car, in the frame before; the car's x and left are the camera's z and -x
        step = np.array([np.cos(angle), -np.sin(angle)])
        around = 1.5 * np.array([np.cos(TURN) - 1, np.sin(TURN)])  # the camera is in front of what the car turns around
        z, left = step + around
        np.testing.assert_allclose(example['translations_T3'][1], (-left, 0, z), atol=1e-5)


def test_the_official_split_has_150_scenes_for_validation():
    assert sum(last - first + 1 for first, last in VALIDATION) == 150


def test_what_is_missing_is_named(root):
    (root / 'samples' / 'CAM_FRONT' / 'scene-0003-4.jpg').unlink()
    with pytest.raises(DataError, match=r'scene-0003-4\.jpg: is not there'):
        NuScenes(root, 'val', **HOW).example(0)
    (root / 'sweeps').rename(root / 'other')
    with pytest.raises(UserError, match=r'sweeps/CAM_FRONT: is not there .*nuscenes\.org'):
        NuScenes(root, 'val', **HOW)
    (root / 'other').rename(root / 'sweeps')
    (root / 'v1.0-mini' / 'ego_pose.json').unlink()
    with pytest.raises(UserError, match=r'ego_pose\.json: is not there'):
        NuScenes(root, 'val', **HOW)
    (root / 'v1.0-mini').rename(root / 'tables')
    with pytest.raises(UserError, match=r'v1\.0-trainval: is not there'):
        NuScenes(root, 'val', **HOW)

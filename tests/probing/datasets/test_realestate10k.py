import logging

import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.realestate10k import RealEstate10K

KINDS = {'video_THWC': ((3, 32, 32, 3), np.uint8), 'pose_34': ((3, 4), np.float32)}
HOW = {'num_frames': 3, 'image_size': 32}


def camera(i):
    """World to camera (3, 4): turns by 0.1 around y and moves in each frame."""
    cos, sin = np.cos(0.1 * i), np.sin(0.1 * i)
    return np.array([[cos, 0, sin, 0.5 * i], [0, 1, 0, 0.1], [-sin, 0, cos, i]])


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    """A clip of 9 frames with pictures, and one without."""
    lines = ['https://www.youtube.com/watch?v=abc']
    for i in range(9):
        numbers = ' '.join(f'{value:.9f}' for value in (0.9, 1.6, 0.5, 0.5, 0, 0, *camera(i).ravel()))
        lines.append(f'{33_000 * (i + 1)} {numbers}')
        write_image(tmp_path / f'frames/test/clip_a/{33_000 * (i + 1)}.jpg', draw_marker(0.4 + 0.02 * i, 0.5, 64, 36))
    (tmp_path / 'test').mkdir()
    for clip in ('clip_a', 'clip_b'):
        (tmp_path / 'test' / f'{clip}.txt').write_text('\n'.join(lines) + '\n')
    return tmp_path


def test_the_pose_takes_first_coordinates_to_last_ones(root, check_source):
    example, _ = check_source(RealEstate10K(root, 'val', **HOW), 0, KINDS)
    point = np.array([0.3, -0.2, 4, 1])  # of the world
    pose = example['pose_34']
    np.testing.assert_allclose(pose @ np.append(camera(3) @ point, 1), camera(5) @ point, atol=1e-5)
    np.testing.assert_allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-6)


def test_pictures_belong_to_the_poses(root, find_marker):
    source = RealEstate10K(root, 'val', **HOW)
    for seed in range(8):
        example = source.example(0, np.random.default_rng(seed))
        first = round((0.5 + (find_marker(example['video_THWC'][0])[0] - 0.5) * 36 / 64 - 0.4) / 0.02)
        expected = np.vstack([camera(first + 2), (0, 0, 0, 1)]) @ np.linalg.inv(
            np.vstack([camera(first), (0, 0, 0, 1)])
        )
        np.testing.assert_allclose(example['pose_34'], expected[:3], atol=1e-5)


def test_translations_can_be_made_metric(root):
    plain, metric = (
        RealEstate10K(root, 'val', metric_scale=s, **HOW).example(0)['pose_34'] for s in (None, {'clip_a': 2.5})
    )
    np.testing.assert_allclose(metric, plain * (1, 1, 1, 2.5), rtol=1e-6)
    (root / 'scales.json').write_text('{"clip_a": 2.5}')
    from_file = RealEstate10K(root, 'val', metric_scale=str(root / 'scales.json'), **HOW).example(0)['pose_34']
    np.testing.assert_array_equal(from_file, metric)
    with pytest.raises(UserError, match=r'metric_scale none\.json: does not exist'):
        RealEstate10K(root, 'val', metric_scale='none.json', **HOW)
    with pytest.raises(DataError, match='clip_a: does not have a metric_scale'):
        RealEstate10K(root, 'val', metric_scale={}, **HOW).example(0)


def test_clips_that_are_gone_are_counted_and_said_once(root, caplog):
    with caplog.at_level(logging.WARNING):
        source = RealEstate10K(root, 'val', **HOW)
        source.example(0)
    assert (len(source), source.missing, len(caplog.messages)) == (1, 1, 1)


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match=r'train: is not there .*realestate10k'):
        RealEstate10K(root, 'train', **HOW)
    (root / 'frames' / 'test' / 'clip_a' / '165000.jpg').unlink()
    with pytest.raises(DataError, match=r'clip_a/165000\.jpg: is not there'):
        RealEstate10K(root, 'val', **HOW).example(0)
    (root / 'test' / 'clip_a.txt').write_text('address\n1 2 3\n')
    with pytest.raises(DataError, match=r'clip_a\.txt: has a line without 19 numbers'):
        RealEstate10K(root, 'val', **HOW).example(0)
    (root / 'frames' / 'test' / 'clip_a').rename(root / 'frames' / 'test' / 'other')
    with pytest.raises(UserError, match='clip_a: is not there'):
        RealEstate10K(root, 'val', **HOW)

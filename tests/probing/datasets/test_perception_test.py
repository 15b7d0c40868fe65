import json

import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.perception_test import PerceptionTest

KINDS = {
    'video_THWC': ((4, 48, 48, 3), np.uint8),
    'queries_Q3': ((5, 3), np.float32),
    'tracks_QT2': ((5, 4, 2), np.float32),
    'visible_QT': ((5, 4), bool),
    'in_scene_QT': ((5, 4), bool),
    'valid_Q': ((5,), bool),
}
HOW = {'num_frames': 4, 'image_size': 48, 'num_tracks': 5, 'stride': 2}
X = 0.2 + 0.03 * np.arange(20)
Y = 0.4 + 0.01 * np.arange(20)


def entry(number, frames):
    """A track of the marker, seen in these frames only."""
    points = [[float(Y[i]) for i in frames], [float(X[i]) for i in frames]]
    return {'id': number, 'label': 'marker', 'parent_objects': [0], 'frame_ids': list(frames), 'points': points}


@pytest.fixture
def root(tmp_path, draw_marker, write_clip):
    """20 frames at 10 a second; tracks seen always, from frame 3 on, in frame 4 and from 17 on."""
    write_clip(tmp_path / 'videos' / 'video_7.mp4', [draw_marker(x, y, 120, 64) for x, y in zip(X, Y, strict=True)], 10)
    tracks = [entry(0, range(20)), entry(1, range(3, 20)), entry(2, [4]), entry(3, range(17, 20))]
    metadata = {'video_id': 'video_7', 'split': 'valid', 'frame_rate': 10.0, 'num_frames': 20}
    table = {
        'video_7': {'metadata': metadata, 'point_tracking': tracks},
        'video_8': {'metadata': {**metadata, 'split': 'train'}, 'point_tracking': tracks},
        'video_9': {'metadata': metadata, 'point_tracking': []},
    }
    (tmp_path / 'point_tracking_valid.json').write_text(json.dumps(table))
    return tmp_path


@pytest.mark.parametrize('center_crop', [False, True])
def test_tracks_follow_the_marker(root, check_source, find_marker, center_crop):
    source = PerceptionTest(root, 'val', center_crop=center_crop, **HOW)
    assert len(source) == 1
    example, draws = check_source(source, 0, KINDS)
    for found in (example, *draws):
        for frame_HWC, point_2, is_visible in zip(
            found['video_THWC'], found['tracks_QT2'][0], found['visible_QT'][0], strict=True
        ):
            marker = find_marker(frame_HWC)
            if is_visible and abs(point_2 - 0.5).max() < 0.4:
                np.testing.assert_allclose(marker, point_2, atol=0.03)
    assert example['visible_QT'][0].sum() == (3 if center_crop else 4)  # the sides are cut off


def test_a_query_is_where_its_point_is_first_seen(root):
    example = PerceptionTest(root, 'val', **HOW).example(0)
    assert example['valid_Q'].tolist() == [True, True, True, False, False]  # the fourth is not seen in the clip
    assert example['queries_Q3'][:3, 0].tolist() == [0, 2, 2]  # frames 0, 4 and 4 of the video
    np.testing.assert_allclose(example['queries_Q3'][1, 1:], (X[4], Y[4]), atol=1e-6)
    assert example['visible_QT'][:3].tolist() == [[True] * 4, [False, False, True, True], [False, False, True, False]]
    np.testing.assert_array_equal(example['in_scene_QT'], example['visible_QT'])
    np.testing.assert_allclose(example['tracks_QT2'][2], [(X[4], Y[4])] * 4, atol=1e-6)


def test_clips_can_be_taken_from_the_center(root):
    example = PerceptionTest(root, 'val', start='center', **HOW).example(0)
    np.testing.assert_allclose(example['queries_Q3'][0], (0, X[6], Y[6]), atol=1e-6)


def test_of_too_many_points_the_first_count(root):
    assert PerceptionTest(root, 'val', **{**HOW, 'num_tracks': 2}).example(0)['valid_Q'].tolist() == [True, True]


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match="start 'last': is not a valid start"):
        PerceptionTest(root, 'val', start='last', **HOW)
    (root / 'videos' / 'video_7.mp4').write_bytes(b'no video')
    with pytest.raises(DataError, match=r'video_7\.mp4'):
        PerceptionTest(root, 'val', **HOW).example(0)
    (root / 'videos' / 'video_7.mp4').unlink()
    with pytest.raises(UserError, match=r'video_7\.mp4: is not there .*google-deepmind/perception_test'):
        PerceptionTest(root, 'val', **HOW)
    with pytest.raises(UserError, match=r'point_tracking_train\.json: is not there'):
        PerceptionTest(root, 'train', **HOW)
    (root / 'point_tracking_valid.json').write_text('{"video_7": {}}')
    with pytest.raises(UserError, match=r"lacks an entry .*'metadata'"):
        PerceptionTest(root, 'val', **HOW)

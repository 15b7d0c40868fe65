import json

import av
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.synthetic.render import render, truth
from rvm_jax.synthetic.scenes import CLASSES, random_scene
from rvm_jax.synthetic.synthetic_videos import read_truth, write_video, write_videos

SMALL = {'num_frames': 6, 'height': 48, 'width': 64, 'num_workers': 0}


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_written_video_decodes_to_nearly_the_same_frames(tmp_path):
    frames = render(random_scene(np.random.default_rng(0), 20))
    write_video(tmp_path / 'a.mp4', frames, fps=10)
    error = decode(tmp_path / 'a.mp4').astype(float) - frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 28  # dB; colors are stored at half resolution
    with av.open(str(tmp_path / 'a.mp4')) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames, stream.codec_context.pix_fmt) == (10, 20, 'yuv420p')
    assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_an_odd_size_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match='even'):
        write_video(tmp_path / 'a.mp4', np.zeros((2, 15, 16, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_the_truth_beside_a_video_is_the_truth_of_its_scene(tmp_path):
    paths = write_videos(tmp_path, 2, seed=4, scene_options={'num_objects': 3}, **SMALL)
    expected = truth(random_scene(np.random.default_rng((4, 1)), 6, 48, 64, num_objects=3, motion_class=1))
    found = read_truth(paths[1].with_suffix('.npz'))
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value) and getattr(found, name).dtype == value.dtype, name
    assert np.array_equal(found.depth_THW, expected.depth_THW)


def test_motion_classes_are_balanced(tmp_path):
    paths = write_videos(tmp_path, 2 * len(CLASSES), seed=0, **{**SMALL, 'num_frames': 2})
    classes = [int(read_truth(path.with_suffix('.npz')).motion_class) for path in paths]
    assert np.bincount(classes).tolist() == [2] * len(CLASSES)


def test_video_i_depends_on_the_seed_and_i_only(tmp_path):
    write_videos(tmp_path / 'few', 2, seed=1, **SMALL)
    write_videos(tmp_path / 'many', 3, seed=1, **{**SMALL, 'num_workers': 2})
    write_videos(tmp_path / 'other', 2, seed=2, **SMALL)
    few, many, other = (contents(tmp_path / name) for name in ('few', 'many', 'other'))
    assert len(many) == 2 * 3 + 1
    assert few.items() <= many.items()
    assert few['clip_00000.mp4'] != few['clip_00001.mp4'] != other['clip_00001.mp4']


def test_videos_that_are_there_are_kept_and_missing_ones_added(tmp_path):
    paths = write_videos(tmp_path, 3, seed=1, **SMALL)
    before = contents(tmp_path)
    paths[0].with_suffix('.npz').unlink()
    paths[1].unlink()
    kept = paths[2].stat().st_mtime_ns
    seen = []
    assert write_videos(tmp_path, 3, seed=1, progress=lambda *step: seen.append(step), **SMALL) == paths
    assert seen == [(2, 3), (3, 3)]
    assert contents(tmp_path) == before
    assert paths[2].stat().st_mtime_ns == kept


def test_other_settings_replace_the_videos_and_surplus_ones_go(tmp_path):
    paths = write_videos(tmp_path, 3, seed=1, **SMALL)
    before = contents(tmp_path)
    write_videos(tmp_path, 2, seed=1, crf=30, **SMALL)
    after = contents(tmp_path)
    assert sorted(after) == sorted(
        ['settings.json', *(f'clip_0000{i}.{end}' for i in (0, 1) for end in ('mp4', 'npz'))]
    )
    assert after['clip_00000.mp4'] != before['clip_00000.mp4']
    assert json.loads((tmp_path / 'settings.json').read_text())['crf'] == 30
    assert not paths[2].exists()


def test_videos_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / 'clip_holiday.mp4').write_bytes(b'precious')
    with pytest.raises(UserError, match='another folder'):
        write_videos(tmp_path, 1, seed=0, **SMALL)
    assert contents(tmp_path) == {'clip_holiday.mp4': b'precious'}

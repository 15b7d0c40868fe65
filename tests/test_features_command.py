import argparse
import dataclasses

import numpy as np
import pytest
from flax import nnx

from rvm_jax import features
from rvm_jax.errors import DataError, UserError
from rvm_jax.models import build
from rvm_jax.visualization import video


@pytest.fixture
def model(monkeypatch):
    """A tiny random model that every path opens as."""
    pretrained = pytest.importorskip('rvm_jax.pretrained')
    arch = dataclasses.replace(build.SIZES['tiny'], image_size=16, encoder_layers=1, core_layers=1)
    model = build.build(arch, rngs=nnx.Rngs(0))
    monkeypatch.setattr(pretrained, 'load', lambda path, step=None: model)
    return model


def command(*words):
    parser = argparse.ArgumentParser()
    features.add_arguments(parser)
    features.run(parser.parse_args(['--model', 'tiny', *map(str, words)]))


def make_video(path, num_frames=21, size=(16, 16), fps=10):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), np.uint8)
    video.write_video(path, (np.roll(picture, shift, axis=1) for shift in range(num_frames)), fps)
    return path


def test_a_long_video_gives_what_encoding_it_at_once_gives(tmp_path, model):
    from rvm_jax.data.video import iterate_frames

    path = make_video(tmp_path / 'long.mp4', num_frames=603)
    command('--video', path, '--output', tmp_path / 'out')
    with np.load(tmp_path / 'out' / 'long.npz') as file:
        found, grid, fps = file['features'], file['grid'], file['fps']
    expected_BTMD, _ = model.encode(np.stack(list(iterate_frames(path)))[None])
    assert found.shape == (603, 1 + 4, 64) and grid.tolist() == [2, 2] and fps == 10
    np.testing.assert_allclose(found, expected_BTMD[0], atol=1e-5)


def test_several_videos_sizes_and_rates(tmp_path, model):
    make_video(tmp_path / 'wide.mp4', size=(32, 64))
    make_video(tmp_path / 'tall.mp4', size=(64, 32))
    command('--video', tmp_path / 'wide.mp4', tmp_path / 'tall.mp4', '--output', tmp_path, '--fps', 5, '--size', 24)
    for name, grid in (('wide', [3, 6]), ('tall', [6, 3])):
        with np.load(tmp_path / f'{name}.npz') as file:
            assert file['grid'].tolist() == grid and file['fps'] == 5
            assert file['features'].shape == (11, 19, 64)


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path):
    first, second = tmp_path / 'a' / 'clip.mp4', tmp_path / 'b' / 'clip.mov'
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes(b'')
    out = tmp_path / 'out'
    with pytest.raises(UserError, match=r'clip\.mov: would be written to .*like .*a/clip\.mp4'):
        command('--video', first, second, '--output', out)
    with pytest.raises(UserError, match='no such file'):
        command('--video', tmp_path / 'gone.mp4', '--output', out)
    with pytest.raises(UserError, match='--fps 0'):
        command('--video', first, '--output', out, '--fps', 0)
    out.mkdir()
    (out / 'clip.npz').write_bytes(b'precious')
    with pytest.raises(UserError, match='already there; pass --overwrite'):
        command('--video', first, '--output', out)
    assert (out / 'clip.npz').read_bytes() == b'precious'


def test_overwrite_replaces_and_a_bad_video_does_not_stop_the_others(tmp_path, model):
    good, bad = make_video(tmp_path / 'good.mp4', num_frames=3), tmp_path / 'bad.mp4'
    bad.write_bytes(b'this is no video')
    (tmp_path / 'good.npz').write_bytes(b'old')
    with pytest.raises(DataError, match=r'bad\.mp4 .*1 of 2 videos'):
        command('--video', bad, good, '--output', tmp_path, '--overwrite')
    with np.load(tmp_path / 'good.npz') as file:
        assert len(file['features']) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ['bad.mp4', 'good.mp4', 'good.npz']

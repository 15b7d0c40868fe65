import dataclasses

import cv2
import numpy as np
import pytest
from flax import nnx

from rvm_jax import cli, pretrained
from rvm_jax.data.video.decode import iterate_frames
from rvm_jax.models import architecture, build
from rvm_jax.visualization import movies


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    """The export folder of a tiny random model."""
    arch = dataclasses.replace(
        architecture.SIZES['tiny'], image_size=16, encoder_layers=1, core_layers=1, decoder_width=0
    )
    folder = tmp_path_factory.mktemp('model') / 'export'
    pretrained.save_pretrained(nnx.jit(lambda: build.build(arch, rngs=nnx.Rngs(0)))(), folder)
    return folder


def command(*words, model='no model'):
    return cli.run('features', ['--model', str(model), *map(str, words)])


def make_video(path, num_frames=21, size=(16, 16), fps=10):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), np.uint8)
    movies.write_video(path, (np.roll(picture, shift, axis=1) for shift in range(num_frames)), fps)
    return path


def test_a_long_video_gives_what_encoding_it_at_once_gives(tmp_path, export):
    path = make_video(tmp_path / 'long.mp4', num_frames=603)
    assert command('--video', path, '--output', tmp_path / 'out', model=export) == 0
    with np.load(tmp_path / 'out' / 'long.npz') as file:
        found, grid, fps = file['features'], file['grid'], file['fps']
    frames_THWC = np.stack(list(iterate_frames(path)))
    expected_BTMD, _ = pretrained.load(export).encode(frames_THWC[None])
    assert found.shape == (603, 1 + 4, 64) and grid.tolist() == [2, 2] and fps == 10
    np.testing.assert_allclose(found, expected_BTMD[0], atol=1e-5)


def test_size_and_rate_are_what_was_asked_for(tmp_path, export):
    path = make_video(tmp_path / 'tall.mp4', size=(64, 32))
    assert command('--video', path, '--output', tmp_path, '--fps', 5, '--size', 24, model=export) == 0
    with np.load(tmp_path / 'tall.npz') as file:
        assert file['grid'].tolist() == [6, 3] and file['fps'] == 5
        assert file['features'].shape == (11, 19, 64)


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path, capsys):
    first, second = tmp_path / 'a' / 'clip.mp4', tmp_path / 'b' / 'clip.mov'
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes(b'')
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'there.npz').write_bytes(b'precious')
    there = tmp_path / 'there.mp4'
    there.write_bytes(b'')
    for words, reason in [
        (('--video', first, second), f'{second}: would be written to {out}/clip.npz, like {first}'),
        (('--video', tmp_path / 'gone.mp4'), 'gone.mp4: does not exist'),
        (('--video', first, '--fps', 0), '--fps 0: is not a number above 0'),
        (('--video', there), 'there.npz: already exists; pass --overwrite'),
    ]:
        assert command(*words, '--output', out) == 2
        assert reason in capsys.readouterr().err
    assert (out / 'there.npz').read_bytes() == b'precious'


def test_a_size_below_a_patch_is_a_mistake(tmp_path, export, capsys):
    path = make_video(tmp_path / 'clip.mp4')
    assert command('--video', path, '--output', tmp_path, '--size', 0, model=export) == 2
    assert 'size 0: a frame needs at least one patch of 8 pixels' in capsys.readouterr().err


def test_a_folder_is_read_to_its_bottom_and_a_stopped_command_resumes(tmp_path, export, capsys):
    for name in ('videos/b/clip.mp4', 'videos/a/clip.mp4', 'videos/a/other.mp4'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / name, num_frames=3)
    (tmp_path / 'two.txt').write_text('videos/a/clip.mp4\nvideos/b/clip.mp4\n')
    out = tmp_path / 'out'
    assert command('--video', tmp_path / 'two.txt', '--output', out / 'videos', model=export) == 0
    assert command('--video', tmp_path / 'videos', '--output', out / 'videos' / 'videos', model=export) == 0
    assert 'done already: 2 of 3' in capsys.readouterr().out
    written = sorted(str(path.relative_to(out)) for path in out.rglob('*.npz'))
    assert written == [f'videos/videos/{name}.npz' for name in ('a/clip', 'a/other', 'b/clip')]
    line = ('--video', tmp_path / 'videos', '--output', out / 'videos' / 'videos')
    assert command(*line, '--size', 24, model=export) == 2
    assert 'is there, of another size: 16, not 24; pass --overwrite' in capsys.readouterr().err
    make_video(tmp_path / 'videos/a/clip.mp4', num_frames=9)
    assert command(*line, model=export) == 2
    assert 'is there, of another video bytes' in capsys.readouterr().err
    assert command(*line, '--overwrite', model=export) == 0
    with np.load(out / 'videos/videos/a/clip.npz') as file:
        assert len(file['features']) == 9


def test_a_listed_video_that_is_missing_stops_no_other(tmp_path, export, capsys):
    make_video(tmp_path / 'good.mp4', num_frames=3)
    (tmp_path / 'list.txt').write_text('gone.mp4\ngood.mp4\n')
    assert command('--video', tmp_path / 'list.txt', '--output', tmp_path / 'out', model=export) == 65
    assert '1 of 2 videos: cannot be used' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['good.npz']


def test_overwrite_replaces_and_a_bad_video_stops_no_other(tmp_path, export, capsys):
    good, bad = make_video(tmp_path / 'good.mp4', num_frames=3), tmp_path / 'bad.mp4'
    bad.write_bytes(b'this is no video')
    (tmp_path / 'good.npz').write_bytes(b'old')
    assert command('--video', bad, good, '--output', tmp_path, '--overwrite', model=export) == 65
    message = capsys.readouterr().err
    assert 'bad.mp4' in message and '1 of 2 videos: cannot be used' in message
    with np.load(tmp_path / 'good.npz') as file:
        assert len(file['features']) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ['bad.mp4', 'good.mp4', 'good.npz']


def make_folder(path, num_frames=9, size=(16, 16)):
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    for number in range(num_frames):
        cv2.imwrite(str(path / f'{number:04}.png'), rng.integers(0, 256, (*size, 3), np.uint8))
    return path


def rate_and_frames(path):
    with np.load(path) as file:
        return float(file['fps']), len(file['features'])


def test_folders_of_frames_are_videos(tmp_path, export, capsys):
    make_folder(tmp_path / 'in' / 'v1.5')
    make_folder(tmp_path / 'in' / 'sub' / 'b')
    (tmp_path / 'in' / 'sub' / 'fps.txt').write_text('5')
    words = '--video', tmp_path / 'in', '--output', tmp_path / 'out'
    assert command(*words, model=export) == 0
    rate, count = rate_and_frames(tmp_path / 'out' / 'v1.5.npz')
    assert np.isnan(rate) and count == 9  # every frame, and nobody said how many they are a second
    assert rate_and_frames(tmp_path / 'out' / 'sub' / 'b.npz') == (5, 9)
    assert command(*words, model=export) == 0
    assert 'done already: 2 of 2' in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / 'in' / 'v1.5' / '0009.png'), np.zeros((16, 16, 3), np.uint8))
    assert command(*words, model=export) == 2 and 'of another video bytes' in capsys.readouterr().err


def test_a_rate_cannot_be_chosen_from_frames_without_one(tmp_path, export, capsys):
    path = make_folder(tmp_path / 'a')
    words = '--video', path, '--output', tmp_path / 'out', '--fps'
    assert command(*words, 5, model=export) == 65
    error = capsys.readouterr().err
    assert 'is a folder of frames without fps.txt, so that 5 of them per second cannot be chosen' in error
    assert command(*words, 'all', model=export) == 0
    (path / 'fps.txt').write_text('10')
    assert command(*words, 5, '--overwrite', model=export) == 0
    assert rate_and_frames(tmp_path / 'out' / 'a.npz') == (5, 5)


def test_the_rate_of_one_video_is_not_that_of_the_next(tmp_path, export):
    paths = [make_video(tmp_path / f'{fps}.mp4', fps=fps) for fps in (5, 10)]
    assert command('--video', *paths, '--output', tmp_path / 'out', model=export) == 0
    assert [rate_and_frames(tmp_path / 'out' / f'{fps}.npz') for fps in (5, 10)] == [(5, 21), (10, 21)]

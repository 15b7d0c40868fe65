import dataclasses

import av
import numpy as np
import pytest
from flax import nnx

from rvm_jax import cli, pretrained
from rvm_jax.data.video.decode import iterate_frames
from rvm_jax.models import architecture, build
from rvm_jax.models.rvm import RVM
from rvm_jax.visualization import movies

ARCHITECTURE = dataclasses.replace(
    architecture.SIZES['tiny'], image_size=32, encoder_layers=1, core_layers=1, decoder_layers=1, mask_ratio=0.8
)


def command(*words):
    return cli.run('visualize', list(map(str, words)))


def export(folder, arch):
    pretrained.save_pretrained(nnx.jit(lambda: build.build(arch, rngs=nnx.Rngs(0)))(), folder)
    return folder


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """The export folder of a tiny random model."""
    return export(tmp_path_factory.mktemp('model') / 'export', ARCHITECTURE)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    movies.write_video(path, (np.roll(picture, shift, axis=1) for shift in range(12)))
    return path


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_it_writes_every_picture_and_the_same_ones_again(tmp_path, model, clip):
    for folder in ('one', 'two'):
        words = '--video', clip, '--output', tmp_path / folder, '--frames', 8
        assert command('--model', model, *words) == 0
    names = sorted(file.name for file in (tmp_path / 'one').iterdir())
    assert names == [f'{stem}.{end}' for stem in ('kmeans', 'pca', 'reconstruction') for end in ('mp4', 'png')]
    for name in names:
        if name.endswith('.png'):
            assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()
    assert num_frames(tmp_path / 'one' / 'pca.mp4') == num_frames(tmp_path / 'one' / 'kmeans.mp4') == 8
    assert num_frames(tmp_path / 'one' / 'reconstruction.mp4') == 4


def test_targets_follow_sources_and_deltas_count_from_the_first(tmp_path, monkeypatch, model, clip):
    calls, original = [], RVM.reconstruct

    def recorded(self, source, target, deltas, **rest):
        calls.append((source, target, deltas))
        return original(self, source, target, deltas, **rest)

    monkeypatch.setattr(RVM, 'reconstruct', recorded)
    assert command('--model', model, '--video', clip, '--output', tmp_path) == 0
    assert np.concatenate([deltas[0] for _, _, deltas in calls]).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    middle_THWC = np.stack(list(iterate_frames(clip)))[:, :, 8:40]
    for source_BTHWC, target_BFHWC, deltas_BF in calls:
        assert (source_BTHWC[0] == middle_THWC[:4]).all()
        assert (target_BFHWC[0] == middle_THWC[deltas_BF[0]]).all()


def test_weights_without_a_decoder_give_feature_pictures_only(tmp_path, clip, capsys):
    model = export(tmp_path / 'export', dataclasses.replace(ARCHITECTURE, decoder_width=0))
    assert command('--model', model, '--video', clip, '--output', tmp_path / 'out') == 0
    names = sorted(file.name for file in (tmp_path / 'out').iterdir())
    assert names == ['kmeans.mp4', 'kmeans.png', 'pca.mp4', 'pca.png']
    assert 'no decoder' in capsys.readouterr().err


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, model, clip, capsys):
    short = tmp_path / 'short.mp4'
    movies.write_video(short, np.zeros((3, 32, 32, 3), np.uint8))
    for words, code, reason in [
        (('--video', clip, '--frames', 4), 2, '--frames 4: at least 5 frames are needed (4 source, 1 target)'),
        (('--video', clip, '--fps', -1), 2, '--fps -1: is not a number above 0'),
        (('--video', tmp_path / 'gone.mp4'), 2, 'gone.mp4: does not exist'),
        (('--video', short), 65, 'short.mp4: has 3 frames'),
    ]:
        assert command('--model', model, *words, '--output', tmp_path / 'out') == code
        error = capsys.readouterr().err
        assert reason in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()

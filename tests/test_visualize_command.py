import argparse
import dataclasses

import av
import numpy as np
import pytest
from flax import nnx

from rvm_jax import visualize
from rvm_jax.errors import DataError, UserError
from rvm_jax.models import build
from rvm_jax.visualization import video

ARCHITECTURE = dataclasses.replace(
    build.SIZES['tiny'], image_size=32, encoder_layers=1, core_layers=1, decoder_layers=1, mask_ratio=0.8
)


def command(*words):
    parser = argparse.ArgumentParser()
    visualize.add_arguments(parser)
    visualize.run(parser.parse_args(['--model', 'tiny', *map(str, words)]))


def open_as(monkeypatch, arch):
    pretrained = pytest.importorskip('rvm_jax.pretrained')
    model = build.build(arch, rngs=nnx.Rngs(0))
    monkeypatch.setattr(pretrained, 'load', lambda path, step=None: model)
    return model


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    video.write_video(path, (np.roll(picture, shift, axis=1) for shift in range(12)))
    return path


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_it_writes_every_picture_and_the_same_ones_again(tmp_path, monkeypatch, clip):
    open_as(monkeypatch, ARCHITECTURE)
    for folder in ('one', 'two'):
        command('--video', clip, '--output', tmp_path / folder, '--frames', 10)
    names = sorted(file.name for file in (tmp_path / 'one').iterdir())
    assert names == [f'{stem}.{end}' for stem in ('kmeans', 'pca', 'reconstruction') for end in ('mp4', 'png')]
    for name in names:
        if name.endswith('.png'):
            assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()
    assert num_frames(tmp_path / 'one' / 'pca.mp4') == num_frames(tmp_path / 'one' / 'kmeans.mp4') == 10
    assert num_frames(tmp_path / 'one' / 'reconstruction.mp4') == 6


def test_targets_follow_the_sources_and_deltas_count_from_the_first_source(tmp_path, monkeypatch, clip):
    model, calls = open_as(monkeypatch, ARCHITECTURE), []
    original = type(model).reconstruct

    def recorded(self, source, target, deltas, **rest):
        calls.append((source, target, deltas))
        return original(self, source, target, deltas, **rest)

    monkeypatch.setattr(type(model), 'reconstruct', recorded)
    command('--video', clip, '--output', tmp_path)
    assert np.concatenate([deltas[0] for _, _, deltas in calls]).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    for source, target, _ in calls:
        assert source.shape == (1, 4, 32, 32, 3) and target.shape[2:] == (32, 32, 3)
        assert (source == calls[0][0]).all() and not (target[0, 0] == source[0, 0]).all()


def test_weights_without_a_decoder_give_feature_pictures_and_say_why_not_more(tmp_path, monkeypatch, clip, capsys):
    open_as(monkeypatch, dataclasses.replace(ARCHITECTURE, decoder_width=0))
    command('--video', clip, '--output', tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['kmeans.mp4', 'kmeans.png', 'pca.mp4', 'pca.png']
    assert 'no decoder' in capsys.readouterr().err


def test_mistakes_are_kind(tmp_path, monkeypatch, clip):
    open_as(monkeypatch, ARCHITECTURE)
    with pytest.raises(UserError, match='--frames 4'):
        command('--video', clip, '--output', tmp_path / 'out', '--frames', 4)
    with pytest.raises(UserError, match='no such file'):
        command('--video', tmp_path / 'gone.mp4', '--output', tmp_path / 'out')
    short = tmp_path / 'short.mp4'
    video.write_video(short, np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match='has 3 frames'):
        command('--video', short, '--output', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()

"""A config is resolved once: the files of its frozen encoder are opened once, for what it is and for its weights."""

import pytest

from rvm_jax import config as configs
from rvm_jax.conversion import frozen, weight_files
from rvm_jax.errors import UserError

SMALL = ['model.encoder=dinov2', 'model.taps=last', 'model.core_layers=1', 'data.image_size=24']


@pytest.fixture
def recipe(golden, tmp_path):
    path = golden('dinov2/registers').write(tmp_path / 'encoder')
    return configs.load('configs/tiny.py', [*SMALL, f'model.encoder_path={path}'])


@pytest.fixture
def opened(monkeypatch):
    """The paths whose weights have been opened."""
    paths, open_weights = [], weight_files.open_weights
    monkeypatch.setattr(weight_files, 'open_weights', lambda path: paths.append(path) or open_weights(path))
    return paths


def test_files_are_opened_once_for_sizes_and_weights(recipe, opened):
    arch, files = frozen.resolve(recipe)
    encoder = files.read()
    assert opened == [recipe.model.encoder_path]
    assert arch.image_encoder.registers == 4
    assert set(name.split('/')[0] for name in encoder.named) == {'encoder'} and len(encoder.fingerprint) == 16


def test_a_stored_architecture_opens_files_only_to_read_them(recipe, opened):
    arch, files = frozen.resolve(recipe)
    stored = frozen.stored(recipe, arch)
    assert len(opened) == 1
    assert stored.read().fingerprint == files.read().fingerprint and len(opened) == 2


def test_a_trained_encoder_has_no_files(opened):
    _, files = frozen.resolve(configs.load('configs/tiny.py'))
    assert files.read() == ({}, '') and not opened


def test_weights_are_asked_for_where_the_path_is_empty():
    _, files = frozen.resolve(configs.load('configs/tiny.py', ['model.encoder=dinov2']))
    with pytest.raises(UserError, match='where are the weights of dinov2'):
        files.read()

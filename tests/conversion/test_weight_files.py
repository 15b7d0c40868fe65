"""Damaged, missing and hostile files of weights are refused by name and reason; the real torch.load where it is."""

import os
import pathlib
import sys

import numpy as np
import pytest

import rvm_jax
from rvm_jax.conversion import image_encoders, weight_files
from rvm_jax.errors import UserError


def test_whole_numbers_are_no_weights(golden, tmp_path):
    reference = golden('dinov2/plain')
    arrays = reference.arrays | {'layernorm.bias': np.zeros(24, np.int32)}
    with pytest.raises(UserError, match=r'layernorm\.bias \(I32\)'):
        rvm_jax.load_image_encoder(reference.write(tmp_path, arrays=arrays))


def test_whole_numbers_that_are_ignored_do_no_harm(golden, tmp_path):
    reference = golden('clip/openai')
    ids = {'vision_model.embeddings.position_ids': np.arange(17)}
    path = reference.write(tmp_path, arrays=reference.arrays | ids)
    assert image_encoders.read_weights(path, image_encoders.read_architecture(path))


def test_a_pickle_alone_is_refused_by_name(golden, tmp_path):
    golden('dinov2/plain').write(tmp_path)
    (tmp_path / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    with pytest.raises(UserError, match=r'only pytorch_model\.bin'):
        rvm_jax.load_image_encoder(tmp_path)


def test_folders_without_weights_or_config_are_refused(golden, tmp_path):
    golden('dinov2/plain').write(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(UserError, match=r'does not have model\.safetensors'):
        rvm_jax.load_image_encoder(tmp_path)
    (tmp_path / 'config.json').unlink()
    with pytest.raises(UserError, match=r'does not have a config\.json'):
        rvm_jax.load_image_encoder(tmp_path)
    with pytest.raises(UserError, match='there is nothing'):
        rvm_jax.load_image_encoder(tmp_path / 'nothing')


def test_without_torch_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'a.pth').write_bytes(b'')
    with pytest.raises(UserError, match=r"pip install 'rvm_jax\[torch\]'"):
        rvm_jax.load_image_encoder(tmp_path / 'a.pth')


def test_a_torch_file_that_is_not_there_is_named(torch_file, tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        rvm_jax.load_image_encoder(tmp_path / 'nothing.pth')


@pytest.mark.parametrize(('contents', 'reason'), [
    ({'epoch': 3}, 'holds no dict of weights'),
    ({'model': {'epoch': 3}}, 'holds no dict of weights'),
    ([1], 'holds no dict of weights'),
    ({'cls_token': np.zeros((1, 1, 8), np.float32), 'epoch': 3}, 'epoch are not arrays'),
    ({'weight': np.zeros(3, np.float32)}, 'an unknown encoder: weight'),
    ({'storage_tokens': np.zeros((1, 4, 8), np.float32)}, 'sizes cannot be read'),
    ({'encoder.layer.0.norm1.weight': np.zeros(8, np.float32)}, 'has the names of Hugging Face'),
])  # fmt: skip
def test_torch_files_without_an_encoder_are_refused(torch_file, contents, reason):
    with pytest.raises(UserError, match=reason):
        rvm_jax.load_image_encoder(torch_file(contents))


@pytest.mark.parametrize(('key', 'array', 'reason'), [
    ('rope_embed.periods', np.zeros(4, np.float32), 'make no sense'),
    ('rope_embed.periods', np.ones(7, np.float32), 'make no sense'),
    ('storage_tokens', np.ones((2, 4, 32), np.float32), r'register_tokens is \(2, 4, 32\)'),
    ('patch_embed.proj.weight', np.ones((32, 3, 8), np.float32), 'sizes cannot be read'),
    ('patch_embed.proj.weight', np.ones((0, 3, 8, 8), np.float32), 'its shapes say width=0'),
    ('blocks.1.attn.qkv.weight', np.ones((97, 32), np.float32), 'missing layers/1/attention'),
])  # fmt: skip
def test_misshapen_original_checkpoints_are_refused(golden, torch_file, key, array, reason):
    with pytest.raises(UserError, match=reason):
        rvm_jax.load_image_encoder(torch_file(golden('dinov3/original').arrays | {key: array}))


def test_a_number_that_claims_to_be_a_large_array_is_refused(golden, torch_file):
    claimed = np.broadcast_to(np.zeros(1, np.float32), (32, 60_000))
    arrays = {k: v for k, v in golden('dinov3/original').arrays.items() if '.mlp.w' not in k}
    for layer in range(2):
        arrays |= {f'blocks.{layer}.mlp.fc1.weight': claimed.T, f'blocks.{layer}.mlp.fc2.weight': claimed}
    with pytest.raises(UserError, match='more than is stored'):
        rvm_jax.load_image_encoder(torch_file(arrays))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_real_torch_files_are_read_and_run_nothing(golden, tmp_path):
    torch = pytest.importorskip('torch')
    reference = golden('dinov2/original')
    path = tmp_path / 'encoder.pth'
    torch.save({'teacher': {key: torch.tensor(array) for key, array in reference.arrays.items()}}, path)
    encoder = rvm_jax.load_image_encoder(path)
    found = np.asarray(encoder(reference.pixels))
    np.testing.assert_allclose(found, reference.expected['last_hidden_state'], atol=1e-4)
    torch.save({'model': Hostile(tmp_path / 'run')}, path)
    with pytest.raises(UserError, match='holds more than weights'):
        rvm_jax.load_image_encoder(path)
    assert not (tmp_path / 'run').exists()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match='not a readable file of PyTorch'):
        rvm_jax.load_image_encoder(path)


def test_buckets_are_refused():
    with pytest.raises(UserError, match='read from a disk'):
        weight_files.open_weights('gs://bucket/encoder.pth')


def test_headers_alone_tell_keys_and_shapes(golden, tmp_path):
    reference = golden('siglip2/naflex')
    weights = weight_files.open_weights(pathlib.Path(reference.write(tmp_path)))
    assert weights.shapes == {key: array.shape for key, array in reference.arrays.items()}

"""Image encoders against numbers of PyTorch and transformers, see tests/goldens/README.md."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import rvm_jax
from rvm_jax.conversion import image_encoders
from rvm_jax.errors import UserError
from rvm_jax.models import param_names
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

FOLDERS = (
    'dinov3/mlp', 'dinov3/swiglu', 'dinov2/plain', 'dinov2/registers', 'dinov2/swiglu', 'siglip2/fixed',
    'siglip2/naflex', 'mae/pretraining', 'clip/openai', 'clip/laion',
)  # fmt: skip
ORIGINALS = ('dinov3/original', 'dinov2/original', 'dinov2/original_registers', 'mae/original')
SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'fixtures' / 'hf'
CLOSE = 1e-5  # relative to the largest value; measured: below 2e-6


def load(golden, name, tmp_path):
    return rvm_jax.load_image_encoder(golden(name).write(tmp_path / 'encoder'))


def difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(np.asarray(found, np.float32) - expected).max() / np.abs(expected).max()


def assert_equals(encoder, pixels, expected, tolerance=CLOSE):
    pixels = jnp.asarray(pixels)
    assert difference(encoder(pixels), expected['last_hidden_state']) < tolerance
    hidden = encoder.hidden_states(pixels)
    assert len(hidden) == encoder.num_layers + 1
    compared = [depth for depth in range(len(hidden)) if f'hidden_{depth}' in expected]
    assert compared
    for depth in compared:
        assert difference(hidden[depth], expected[f'hidden_{depth}']) < tolerance


@pytest.mark.parametrize('name', FOLDERS)
def test_every_depth_equals_hugging_face(golden, tmp_path, name):
    reference = golden(name)
    assert_equals(load(golden, name, tmp_path), reference.pixels, reference.expected)


@pytest.mark.parametrize('name', ORIGINALS)
def test_original_checkpoints_equal_pytorch(golden, torch_file, name):
    reference = golden(name)
    encoder = rvm_jax.load_image_encoder(torch_file(reference.arrays))
    assert_equals(encoder, reference.pixels, reference.expected)


@pytest.mark.parametrize('name', ['clip_vision', 'dinov2', 'dinov2_with_registers', 'dinov3_vit', 'dinov3_vit_swiglu',
                                  'siglip_vision', 'vit_mae'])  # fmt: skip
def test_every_depth_equals_the_shared_fixtures(name):
    if not SHARED.is_dir():
        pytest.skip('the fixtures are not here')
    with np.load(SHARED / name / 'golden.npz') as file:
        expected = dict(file)
    # MAE's epsilon is 1e-6, that of its training, not the 1e-12 of the fixture: see mae_weights.py.
    assert_equals(
        rvm_jax.load_image_encoder(SHARED / name), expected['pixels'], expected, 1e-4 if name == 'vit_mae' else CLOSE
    )


@pytest.mark.parametrize('name', ['dinov3/mlp', 'dinov2/plain'])
def test_masked_encoding_equals_hugging_face(golden, tmp_path, name):
    reference = golden(name)
    found = load(golden, name, tmp_path).encode_masked(reference.pixels, reference.expected['visible'])
    assert difference(found, reference.expected['masked']) < CLOSE


def test_visible_encoding_equals_masked_mae(golden, tmp_path):
    reference = golden('mae/pretraining')
    found = load(golden, 'mae/pretraining', tmp_path).encode_visible(reference.pixels, reference.expected['visible'])
    assert difference(found, reference.expected['seen']) < CLOSE


@pytest.mark.parametrize('name', ['dinov3/swiglu', 'dinov2/registers', 'clip/openai'])
def test_bfloat16_stays_close_to_float32(golden, tmp_path, name):
    reference = golden(name)
    encoder = rvm_jax.load_image_encoder(reference.write(tmp_path / 'encoder'), precision='bf16')
    found = encoder(jnp.asarray(reference.pixels))
    assert found.dtype == jnp.bfloat16
    assert difference(found, reference.expected['last_hidden_state']) < 0.04


@pytest.mark.parametrize(('dtype', 'name'), [(np.float16, 'dinov2/plain'), (ml_dtypes.bfloat16, 'dinov3/mlp')])
def test_half_precision_files_become_float32(golden, tmp_path, dtype, name):
    reference = golden(name)
    halved = {key: array.astype(dtype) for key, array in reference.arrays.items()}
    path = reference.write(tmp_path / 'half', arrays=halved)
    whole = reference.write(tmp_path / 'whole', arrays={key: a.astype(np.float32) for key, a in halved.items()})
    arch = image_encoders.read_architecture(path)
    found, expected = image_encoders.read_weights(path, arch), image_encoders.read_weights(whole, arch)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_shards_equal_one_file(golden, tmp_path):
    reference = golden('dinov2/plain')
    whole = reference.write(tmp_path / 'whole')
    folder = tmp_path / 'shards'
    reference.write(folder)
    (folder / 'model.safetensors').unlink()
    write_shards(folder, reference.arrays)
    arch = image_encoders.read_architecture(str(folder))
    assert arch == image_encoders.read_architecture(whole)
    found, expected = image_encoders.read_weights(str(folder), arch), image_encoders.read_weights(whole, arch)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def write_shards(folder, arrays):
    keys = sorted(arrays)
    weight_map = {key: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, key in enumerate(keys)}
    for file in set(weight_map.values()):
        safetensors.numpy.save_file({key: arrays[key] for key in keys if weight_map[key] == file}, folder / file)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))


def test_a_missing_shard_is_named(golden, tmp_path):
    reference = golden('dinov2/plain')
    reference.write(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    write_shards(tmp_path, reference.arrays)
    (tmp_path / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(UserError, match=r'model-00002-of-00002\.safetensors, which is not there'):
        rvm_jax.load_image_encoder(tmp_path)


def test_an_index_cannot_name_files_elsewhere(golden, tmp_path):
    golden('dinov2/plain').write(tmp_path)
    (tmp_path / 'model.safetensors').rename(tmp_path.parent / 'other.safetensors')
    (tmp_path / 'model.safetensors.index.json').write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(UserError, match='not a safetensors file beside it'):
        rvm_jax.load_image_encoder(tmp_path)


@pytest.mark.parametrize(('name', 'prefix'), [('dinov3/mlp', 'model.'), ('dinov2/plain', 'dinov2.'),
                                              ('clip/laion', 'vision_model.')])  # fmt: skip
def test_a_model_around_the_encoder_is_tolerated(golden, tmp_path, name, prefix):
    reference = golden(name)
    arrays = {prefix + key: array for key, array in reference.arrays.items()}
    path = reference.write(tmp_path / 'inner', arrays=arrays | {'classifier.weight': np.ones((2, 2), np.float32)})
    plain = reference.write(tmp_path / 'plain')
    arch = image_encoders.read_architecture(path)
    if name.startswith('dinov'):
        found, expected = image_encoders.read_weights(path, arch), image_encoders.read_weights(plain, arch)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert arch == image_encoders.read_architecture(plain)


@pytest.mark.parametrize('wrapper', ['model', 'teacher', 'state_dict'])
def test_wrapped_original_checkpoints_are_read(golden, torch_file, wrapper):
    arrays = golden('mae/original').arrays
    plain, wrapped = torch_file(arrays), torch_file({wrapper: arrays, 'epoch': 800})
    arch = image_encoders.read_architecture(wrapped)
    assert arch == image_encoders.read_architecture(plain)
    assert image_encoders.read_weights(wrapped, arch).keys() == image_encoders.read_weights(plain, arch).keys()


def test_keys_that_are_not_wanted_are_ignored_by_name(golden, tmp_path):
    reference = golden('dinov3/mlp')
    path = reference.write(tmp_path, arrays=reference.arrays | {'local_cls_norm.weight': np.ones(24, np.float32)})
    arch = image_encoders.read_architecture(path)
    assert image_encoders.read_weights(path, arch)


def test_a_key_left_over_is_refused(golden, tmp_path):
    reference = golden('dinov3/mlp')
    path = reference.write(tmp_path, arrays=reference.arrays | {'cls_norm.weight': np.ones(24, np.float32)})
    with pytest.raises(UserError, match=r'unexpected cls_norm\.weight'):
        rvm_jax.load_image_encoder(path)


def test_a_missing_key_is_refused(golden, tmp_path):
    reference = golden('clip/openai')
    arrays = dict(reference.arrays)
    del arrays['vision_model.encoder.layers.1.mlp.fc1.weight']
    with pytest.raises(UserError, match='missing layers/1/mlp/dense_in/kernel'):
        rvm_jax.load_image_encoder(reference.write(tmp_path, arrays=arrays))


def test_a_transposed_kernel_is_refused(golden, tmp_path):
    reference = golden('dinov2/plain')
    key = 'encoder.layer.1.mlp.fc1.weight'
    with pytest.raises(UserError, match='layers/1/mlp/dense_in/kernel is'):
        rvm_jax.load_image_encoder(
            reference.write(tmp_path, arrays=reference.arrays | {key: np.ascontiguousarray(reference.arrays[key].T)})
        )


def test_two_keys_for_one_place_are_refused(golden, tmp_path):
    reference = golden('dinov2/plain')
    twice = reference.arrays | {'dinov2.layernorm.bias': reference.arrays['layernorm.bias']}
    with pytest.raises(UserError, match=r'unexpected dinov2\.layernorm\.bias'):
        rvm_jax.load_image_encoder(reference.write(tmp_path, arrays=twice))


def test_a_mixed_up_folder_is_named_as_such(golden, tmp_path):
    path = golden('dinov3/mlp').write(tmp_path, arrays=golden('clip/openai').arrays)
    with pytest.raises(UserError, match=r'mixed up: config\.json says dinov3_vit, the weights are those of clip'):
        rvm_jax.load_image_encoder(path)


def test_another_family_than_asked_for_is_named(golden, tmp_path):
    path = golden('dinov2/plain').write(tmp_path)
    assert image_encoders.read_architecture(path, family='dinov2').family == 'dinov2'
    with pytest.raises(UserError, match='holds dinov2, not dinov3'):
        image_encoders.read_architecture(path, family='dinov3')


@pytest.mark.parametrize(('config', 'reason'), [
    ({'model_type': 'bert'}, "model_type='bert' is not known"),
    ({'model_type': 'rvm', 'architecture': {}}, 'an RVM export'),
    ({'architecture': 'vit_base'}, 'does not have a model_type'),
])  # fmt: skip
def test_folders_of_other_models_are_refused(golden, tmp_path, config, reason):
    with pytest.raises(UserError, match=reason):
        rvm_jax.load_image_encoder(golden('dinov2/plain').write(tmp_path, config=config))


def test_weights_of_other_models_are_refused(golden, tmp_path):
    path = golden('dinov2/plain').write(tmp_path, arrays={'bert.pooler.weight': np.ones((2, 2), np.float32)})
    with pytest.raises(UserError, match=r'an unknown encoder: bert\.pooler\.weight'):
        rvm_jax.load_image_encoder(path)


def test_an_unlike_vit_under_the_names_of_mae_is_refused(golden, torch_file):
    arrays = golden('mae/original').arrays
    arrays['pos_embed'] = arrays['pos_embed'] + 1
    with pytest.raises(UserError, match='not of MAE'):
        rvm_jax.load_image_encoder(torch_file(arrays))


def test_original_rope_periods_are_those_in_the_file(golden, torch_file):
    arrays = golden('dinov3/original').arrays
    arch = image_encoders.read_architecture(torch_file(arrays))
    assert arch.rope_periods == tuple(arrays['rope_embed.periods'].tolist())
    assert arch.heads == 2


def test_the_interpolation_follows_the_source_unless_given(golden, tmp_path, torch_file):
    assert image_encoders.read_architecture(torch_file(golden('dinov2/original').arrays)).interpolation == 'offset'
    path = golden('dinov2/plain').write(tmp_path)
    assert image_encoders.read_architecture(path).interpolation == 'size'
    assert image_encoders.read_architecture(path, interpolation='offset').interpolation == 'offset'
    pixels = jnp.asarray(golden('dinov2/plain').pixels)
    own, other = (rvm_jax.load_image_encoder(path, interpolation=rule)(pixels) for rule in (None, 'offset'))
    assert np.abs(own - other).max() > 1e-3
    with pytest.raises(UserError, match='interpolation'):
        image_encoders.read_architecture(path, interpolation='nearest')


def test_mean_and_std_come_from_the_preprocessor_file(golden, tmp_path):
    path = golden('dinov3/mlp').write(tmp_path)
    assert image_encoders.read_architecture(path).mean == (0.485, 0.456, 0.406)
    preprocessor = {'image_mean': [0.43, 0.411, 0.296], 'image_std': [0.213, 0.156, 0.143]}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
    encoder = rvm_jax.load_image_encoder(path)
    assert (encoder.mean, encoder.std) == ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))


def test_only_encoders_with_a_mask_token_say_so(golden, tmp_path):
    reference = golden('dinov2/plain')
    assert image_encoders.read_architecture(reference.write(tmp_path / 'with')).mask_token
    arrays = {key: array for key, array in reference.arrays.items() if 'mask_token' not in key}
    assert not rvm_jax.load_image_encoder(reference.write(tmp_path / 'without', arrays=arrays)).has_mask_token


def test_image_encoders_are_told_from_other_paths(golden, tmp_path, torch_file):
    assert image_encoders.is_image_encoder(golden('siglip2/fixed').write(tmp_path / 'folder'))
    assert image_encoders.is_image_encoder(torch_file({}))
    (tmp_path / 'export').mkdir()
    (tmp_path / 'export' / 'config.json').write_text('{"model_type": "rvm"}')
    for other in (tmp_path / 'export', tmp_path, tmp_path / 'nothing'):
        assert not image_encoders.is_image_encoder(other)


def test_fingerprints_tell_encoders_apart(golden, tmp_path):
    reference = golden('dinov2/plain')
    path = reference.write(tmp_path / 'one')
    arch = image_encoders.read_architecture(path)
    named = image_encoders.read_weights(path, arch)
    first = image_encoders.fingerprint(arch, named)
    assert first == image_encoders.fingerprint(arch, dict(reversed(named.items())))
    assert first != image_encoders.fingerprint(dataclasses.replace(arch, interpolation='offset'), named)
    moved = named | {'norm/bias': np.nextafter(named['norm/bias'], 1)}
    assert first != image_encoders.fingerprint(arch, moved)
    assert len(first) == 16 and int(first, 16)


@pytest.mark.parametrize('name', FOLDERS)
def test_an_architecture_survives_json(golden, tmp_path, name):
    arch = image_encoders.read_architecture(golden(name).write(tmp_path))
    values = json.loads(json.dumps(dataclasses.asdict(arch)))
    restored = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    assert ImageArchitecture(**restored) == arch
    assert all(type(restored[key]) is type(getattr(arch, key)) for key in restored)


def test_every_family_has_a_licence():
    assert set(image_encoders.LICENSES) == set(image_encoders.FAMILIES)
    assert image_encoders.LICENSES['mae'][0] == 'CC-BY-NC 4.0'


def test_weights_are_named_as_the_model_names_them(golden, tmp_path):
    path = golden('dinov3/swiglu').write(tmp_path)
    encoder = rvm_jax.load_image_encoder(path)
    named = image_encoders.read_weights(path, encoder.architecture)
    own = param_names.to_named(encoder)
    assert own.keys() == named.keys()
    assert all(np.array_equal(own[name], named[name]) for name in named)


RUNTIME_NAMES = {  # what transformers 5.24 renames as it loads, in its conversion_mapping.py, in this order
    'mae/pretraining': (
        ('encoder.layer.', 'layers.'), ('attention.attention.query', 'attention.q_proj'),
        ('attention.attention.key', 'attention.k_proj'), ('attention.attention.value', 'attention.v_proj'),
        ('attention.output.dense', 'attention.o_proj'), ('intermediate.dense', 'mlp.fc1'), ('output.dense', 'mlp.fc2'),
    ),
    'dinov2/plain': (
        ('attention.attention.query', 'attention.q_proj'), ('attention.attention.key', 'attention.k_proj'),
        ('attention.attention.value', 'attention.v_proj'), ('attention.output.dense', 'attention.o_proj'),
    ),
    'dinov3/mlp': (('layer.', 'model.layer.'),),
    'clip/openai': (('vision_model.', ''),),
    'siglip2/fixed': (('vision_model.', ''),),
}  # fmt: skip
RUNTIME_NAMES['dinov2/registers'] = RUNTIME_NAMES['dinov2/plain']
RUNTIME_NAMES['dinov2/swiglu'] = (*RUNTIME_NAMES['dinov2/plain'], ('mlp.weights_out', 'mlp.down_proj'))
RUNTIME_NAMES['dinov3/swiglu'] = RUNTIME_NAMES['dinov3/mlp']


def runtime_arrays(arrays, names):
    """Arrays as save_pretrained(save_original_format=False) writes them."""
    written = {}
    for key, array in arrays.items():
        for old, new in names if not key.startswith(('decoder.', 'text_model.')) else ():
            key = key.replace(old, new) if new not in key or not new else key
        if 'mlp.weights_in' in key:
            halves = zip(('gate_proj', 'up_proj'), np.split(array, 2), strict=True)
            written |= {key.replace('weights_in', part): half for part, half in halves}
        else:
            written[key] = array
    return written


@pytest.mark.parametrize('name', RUNTIME_NAMES)
def test_names_that_transformers_5_has_in_memory_are_read(golden, tmp_path, name):
    reference = golden(name)
    arrays = runtime_arrays(reference.arrays, RUNTIME_NAMES[name])
    assert arrays.keys() != reference.arrays.keys()
    paths = [reference.write(tmp_path / 'old'), reference.write(tmp_path / 'new', arrays=arrays)]
    old, new = (image_encoders.read_weights(path, image_encoders.read_architecture(path)) for path in paths)
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[key], new[key]) for key in old)

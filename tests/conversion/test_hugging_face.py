"""A config.json comes from outside: every value is checked before anything is made of it."""

import json

import pytest

from rvm_jax.conversion import image_encoders
from rvm_jax.errors import UserError


def read(golden, tmp_path, name, change=None, preprocessor=None):
    reference = golden(name)
    path = reference.write(
        tmp_path, config=(change or (lambda config: config))(json.loads(json.dumps(reference.config)))
    )
    if preprocessor is not None:
        (tmp_path / 'preprocessor_config.json').write_text(preprocessor)
    return image_encoders.read_architecture(path)


@pytest.mark.parametrize(('key', 'value'), [
    ('hidden_size', 10**12), ('hidden_size', -24), ('hidden_size', '24'), ('hidden_size', 24.0), ('hidden_size', True),
    ('hidden_size', None), ('hidden_size', [24]), ('num_hidden_layers', 10**6), ('num_attention_heads', 5),
    ('num_attention_heads', 0), ('patch_size', 0), ('patch_size', [8, 16]), ('num_channels', 1),
    ('intermediate_size', 2**40), ('layer_norm_eps', -1), ('layer_norm_eps', float('nan')), ('hidden_act', 'relu'),
    ('hidden_act', ['gelu']), ('image_size', 4), ('use_gated_mlp', 1), ('key_bias', 'no'), ('rope_theta', 0),
    ('rope_theta', float('inf')), ('num_register_tokens', -1),
])  # fmt: skip
def test_values_out_of_range_or_type_are_named(golden, tmp_path, key, value):
    with pytest.raises(UserError, match=rf'config\.json has {key}='):
        read(golden, tmp_path, 'dinov3/mlp', lambda config: config | {key: value})


def test_sizes_that_the_weights_lack_are_refused_early(golden, tmp_path):
    reference = golden('siglip2/fixed')
    vision = reference.config['vision_config'] | {'hidden_size': 65_536, 'image_size': 65_536, 'num_hidden_layers': 128}
    path = reference.write(tmp_path, config=reference.config | {'vision_config': vision})
    with pytest.raises(UserError, match=r'its arrays do not fit'):
        image_encoders.load_image_encoder(path)


def test_a_vision_config_must_be_an_object(golden, tmp_path):
    with pytest.raises(UserError, match='vision_config'):
        read(golden, tmp_path, 'clip/openai', lambda config: config | {'vision_config': [1]})


def test_what_a_config_leaves_out_is_as_in_transformers(golden, tmp_path):
    config = {'model_type': 'siglip', 'vision_config': {'model_type': 'siglip_vision_model', 'image_size': 256}}
    arch = read(golden, tmp_path, 'siglip2/fixed', lambda _: config)
    assert (arch.width, arch.layers, arch.heads, arch.mlp, arch.patch_size) == (768, 12, 12, 3072, 16)
    assert (arch.activation, arch.position_grid) == ('tanh', (16, 16))


def test_sizes_may_be_given_as_height_and_width(golden, tmp_path):
    arch = read(
        golden, tmp_path, 'dinov2/plain', lambda config: config | {'patch_size': [8, 8], 'image_size': [32, 32]}
    )
    assert (arch.patch_size, arch.position_grid) == (8, (4, 4))


def test_the_epsilon_of_mae_is_that_of_its_training(golden, tmp_path):
    arch = read(golden, tmp_path, 'mae/pretraining', lambda config: config | {'layer_norm_eps': 1e-12})
    assert arch.epsilon == 1e-6


def test_naflex_needs_a_square_table(golden, tmp_path):
    with pytest.raises(UserError, match='num_patches=15'):
        read(golden, tmp_path, 'siglip2/naflex', lambda config: config | {'num_patches': 15})


@pytest.mark.parametrize('values', [
    {'image_mean': [0.5, 0.5]}, {'image_mean': '0.5'}, {'image_std': [0, 1, 1]}, {'image_std': ['1', 1, 1]},
    {'image_std': [float('nan'), 1, 1]},
])  # fmt: skip
def test_a_preprocessor_that_makes_no_sense_is_refused(golden, tmp_path, values):
    with pytest.raises(UserError, match=r'preprocessor_config\.json'):
        read(golden, tmp_path, 'dinov2/plain', preprocessor=json.dumps(values))


def test_pixels_that_are_not_normalized_stay_as_they_are(golden, tmp_path):
    arch = read(golden, tmp_path, 'dinov2/plain', preprocessor='{"do_normalize": false, "image_mean": [1, 1, 1]}')
    assert (arch.mean, arch.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


HALF, OTHER = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3}, {'image_mean': [0.4] * 3, 'image_std': [0.25] * 3}


def read_processors(golden, tmp_path, **files):
    path = golden('clip/openai').write(tmp_path)
    for name, values in files.items():
        (tmp_path / f'{name}_config.json').write_text(json.dumps(values))
    arch = image_encoders.read_architecture(path)
    return arch.mean, arch.std


@pytest.mark.parametrize('files', [
    {'processor': {'image_processor': HALF, 'processor_class': 'CLIPProcessor'}},
    {'processor': {'image_processor': HALF}, 'preprocessor': OTHER},
    {'processor': {'processor_class': 'CLIPProcessor'}, 'preprocessor': HALF},  # one that says nothing of pictures
    {'preprocessor': HALF | {'do_normalize': None, 'do_rescale': None, 'rescale_factor': 0.00392156862745098}},
    {'preprocessor': {'image_mean': 0.5, 'image_std': 0.5}},
    {'preprocessor': {'image_mean': [127.5] * 3, 'image_std': [127.5] * 3, 'do_rescale': False}},
    {'preprocessor': {'image_mean': [1.0] * 3, 'image_std': [1.0] * 3, 'rescale_factor': 1 / 127.5}},
])  # fmt: skip
def test_mean_and_deviation_are_those_that_transformers_uses(golden, tmp_path, files):
    for found in read_processors(golden, tmp_path, **files):
        assert found == pytest.approx((0.5,) * 3, abs=1e-7)


def test_two_files_that_differ_are_named(golden, tmp_path, capsys):
    read_processors(golden, tmp_path, processor={'image_processor': HALF}, preprocessor=HALF | {'size': 224})
    assert not capsys.readouterr().err
    read_processors(golden, tmp_path, processor={'image_processor': HALF}, preprocessor=OTHER)
    said = capsys.readouterr().err
    assert 'processor_config.json and preprocessor_config.json differ; the first is used' in said
    assert 'image_mean [0.5, 0.5, 0.5], not [0.4, 0.4, 0.4]' in said and 'do_rescale' not in said


@pytest.mark.parametrize('values', [[1], 'text', {'image_mean': [1, 2]}, {'do_rescale': 'no'}, {'rescale_factor': 0},
                                    {'rescale_factor': 1}])  # fmt: skip
def test_a_processor_that_makes_no_sense_is_refused(golden, tmp_path, values):
    with pytest.raises(UserError, match=r'processor_config\.json'):
        read_processors(golden, tmp_path, processor={'image_processor': values})

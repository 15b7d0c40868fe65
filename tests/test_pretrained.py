import dataclasses
import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import rvm_jax
from rvm_jax import pretrained
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, param_names

ARCHITECTURE = dataclasses.replace(
    architecture.SIZES['tiny'],
    width=16,
    encoder_layers=2,
    core_layers=1,
    decoder_layers=1,
    mask_ratio=0.5,
    image_size=24,
)


def make_model(arch=ARCHITECTURE):
    rng, model = np.random.default_rng(0), build.abstract(arch)
    named = {name: rng.normal(size=s).astype(np.float32) for name, s in param_names.named_shapes(model).items()}
    return param_names.from_named(model, named, 'random')


@pytest.fixture(scope='module')
def model():
    return make_model()


@pytest.fixture
def folder(model, tmp_path):
    """An export folder, to be damaged."""
    pretrained.save_pretrained(model, tmp_path / 'export', facts={'Data': 'a|b\nc'})
    return tmp_path / 'export'


def assert_same(model, other):
    left, right = param_names.to_named(model), param_names.to_named(other)
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(right[name], array, strict=True, err_msg=name)


def rewrite_config(folder, **changes):
    config = json.loads((folder / 'config.json').read_text())
    config['architecture'] |= changes
    (folder / 'config.json').write_text(json.dumps(config))


def rewrite_weights(folder, change):
    path = folder / 'model.safetensors'
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path)


@pytest.mark.parametrize('switches', [{}, {'decoder_width': 0}, {'gate_bias': True, 'state_norm': False}])
def test_an_export_folder_reads_back_bit_for_bit(tmp_path, switches):
    model = make_model(dataclasses.replace(ARCHITECTURE, **switches))
    rvm_jax.save_pretrained(model, tmp_path / 'deep' / 'export')
    found = rvm_jax.from_pretrained(tmp_path / 'deep' / 'export')
    assert found.architecture == model.architecture
    assert_same(found, model)


def test_an_export_folder_holds_what_a_hub_expects(folder):
    assert {path.name for path in folder.iterdir()} == pretrained.EXPORTED
    assert os.stat(folder).st_mode & 0o777 == 0o755
    card = (folder / 'README.md').read_text()
    assert card.startswith('---\nlibrary_name: rvm_jax\n') and '| Data | a\\|b c |' in card
    assert json.loads((folder / 'config.json').read_text())['model_type'] == 'rvm'
    assert json.loads((folder / 'preprocessor_config.json').read_text())['size'] == {'height': 24, 'width': 24}


def test_parts_are_separate_prefixes_of_the_weights(folder):
    names = safetensors.numpy.load_file(folder / 'model.safetensors')
    assert {name.split('.')[0] for name in names} == {'encoder', 'core', 'decoder'}
    assert 'encoder.layers.1.attention.query.kernel' in names


def test_an_older_export_is_replaced_and_nothing_else(folder, model, tmp_path):
    other = make_model(dataclasses.replace(ARCHITECTURE, decoder_width=0))
    pretrained.save_pretrained(other, folder)
    assert pretrained.load(folder).decoder is None
    (folder / 'precious.txt').write_text('mine')
    for path, reason in ((folder, 'is not an export folder'), (folder / 'precious.txt', 'is not a folder')):
        with pytest.raises(UserError, match=f'exists and {reason}'):
            pretrained.save_pretrained(model, path)
    assert (folder / 'precious.txt').read_text() == 'mine' and pretrained.load(folder).decoder is None
    assert [path.name for path in tmp_path.iterdir()] == ['export']


def test_a_failed_write_leaves_the_older_export(folder, model, tmp_path, monkeypatch):
    other, opened = make_model(dataclasses.replace(ARCHITECTURE, decoder_width=0)), open

    def failing(path, *args, **options):
        if str(path).endswith('preprocessor_config.json'):
            raise OSError(28, 'No space left on device')
        return opened(path, *args, **options)

    monkeypatch.setattr('builtins.open', failing)
    for path in (folder, tmp_path / 'new'):
        with pytest.raises(OSError, match='No space'):
            pretrained.save_pretrained(other, path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ['export']
    assert_same(pretrained.load(folder), model)


def test_a_failed_released_file_leaves_the_older_one(model, tmp_path, monkeypatch):
    path = tmp_path / 'rvm.npz'
    pretrained.save_official(model, path)
    before = path.read_bytes()
    assert os.stat(path).st_mode & 0o777 == 0o644

    def failing(file, **arrays):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'savez', failing)
    with pytest.raises(OSError, match='No space'):
        pretrained.save_official(model, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['rvm.npz']


def test_a_config_of_another_model_lists_what_does_not_fit(folder):
    rewrite_config(folder, encoder_layers=3, core_mlp=17, decoder_width=0)
    with pytest.raises(UserError) as error:
        pretrained.load(folder)
    for part in ('missing encoder/layers/2/', 'unexpected decoder/', 'core/layers/0/mlp/dense_in/bias is (256,)'):
        assert part in str(error.value)


@pytest.mark.parametrize('dtype', [np.float16, np.float64, np.int8, ml_dtypes.bfloat16])
def test_weights_of_another_type_are_refused(folder, dtype):
    def change(arrays):
        arrays['encoder.cls_token'] = arrays['encoder.cls_token'].astype(dtype)

    rewrite_weights(folder, change)
    with pytest.raises(UserError, match=r'weights are float32, not so encoder\.cls_token'):
        pretrained.load(folder)


def test_a_weight_that_is_gone_or_too_many_is_named(folder):
    rewrite_weights(folder, lambda arrays: arrays.update(more=arrays.pop('encoder.cls_token')))
    with pytest.raises(UserError, match=r'missing encoder/cls_token \(1, 16\); unexpected more \(1, 16\)'):
        pretrained.load(folder)


def test_what_is_no_model_says_what_was_found(tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(b'')
    for path, found in [
        (tmp_path / 'gone', 'there is nothing'),
        (tmp_path, 'it holds clip.mp4'),
        (tmp_path / 'clip.mp4', 'it holds no model'),
    ]:
        with pytest.raises(UserError, match=f'not a model: {found}; name an export folder, a workdir'):
            pretrained.load(path)


def test_a_step_is_for_workdirs(folder):
    with pytest.raises(UserError, match=r'--step 3: .*holds one model'):
        pretrained.load(folder, step=3)


def test_the_precision_is_the_callers_choice(folder):
    assert pretrained.load(folder, precision='bf16').encoder.tokens_dtype == jnp.bfloat16
    assert pretrained.load(folder).encoder.tokens_dtype == jnp.float32
    with pytest.raises(UserError, match="precision='half': is not a choice; take one of float32"):
        pretrained.load(folder, precision='half')


def test_the_architecture_is_told_without_the_weights(folder):
    (folder / 'model.safetensors').write_bytes(b'')
    assert pretrained.read_architecture(folder) == ARCHITECTURE

"""Ours against numbers made by the released model code, see tests/goldens/README.md."""

import ast
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax import pretrained
from rvm_jax.conversion import official_rvm
from rvm_jax.errors import UserError
from rvm_jax.models import architecture

SMALL = pathlib.Path(__file__).parents[1] / 'goldens' / 'official_tiny_64.npz'
DECODER = ('mask_token', 'decoder', 'delta_embedder', 'detokenizer')  # released keys that belong to the decoder
TOLERANCE = 1e-4  # relative to the largest value; measured: below 1e-6


def read_reference(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def weights_of(reference):
    return {key.removeprefix('params/'): array for key, array in reference.items() if key.startswith('params/')}


def write(path, weights):
    with open(path, 'wb') as file:
        official_rvm.write_npz(file, weights)
    return path


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE * np.abs(expected).max()


def loss_and_gradients(model, reference):
    """(reconstruction, loss, {released key: gradient})."""
    graphdef, params = nnx.split(model)
    target = reference['target'].astype(np.float32) / 255

    @jax.jit
    def compute(params):
        def loss_of(params):
            inputs = (reference[name] for name in ('source', 'target', 'deltas', 'visible'))
            out = nnx.merge(graphdef, params).reconstruct(*inputs)
            return jnp.square(out.pixels - target).mean(), out

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, out), gradients = compute(params)
    return out, loss, official_rvm.to_official(nnx.merge(graphdef, gradients))


def check_against(reference, model):
    """Features, reconstruction, loss and every gradient norm of a released model's file."""
    out, loss, gradients = loss_and_gradients(model, reference)
    assert_close(out.features, reference['features'])
    assert_close(out.pixels, reference['reconstructed'])
    np.testing.assert_allclose(loss, reference['loss'], rtol=TOLERANCE)
    expected = {key.removeprefix('grad_norm/'): norm for key, norm in reference.items() if key.startswith('grad_norm/')}
    assert gradients.keys() == expected.keys() == weights_of(reference).keys()
    for key, norm in expected.items():
        if key.endswith('attention/key/bias'):  # exactly zero but for rounding: softmax ignores a shift of all keys
            assert norm < 1e-7 and np.linalg.norm(gradients[key]) < 1e-7, key
        else:
            np.testing.assert_allclose(np.linalg.norm(gradients[key]), norm, rtol=TOLERANCE, err_msg=key)


@pytest.fixture(scope='module')
def reference():
    return read_reference(SMALL)


@pytest.fixture(scope='module')
def weights(reference):
    return weights_of(reference)


@pytest.fixture(scope='module')
def model(weights, tmp_path_factory):
    return pretrained.load(write(tmp_path_factory.mktemp('released') / 'rvm.npz', weights))


def test_reconstruction_and_gradients_match_the_released_code(reference, model):
    check_against(reference, model)


def test_features_and_state_of_a_clip_match_the_released_code(reference, model):
    features, state = model.encode(reference['source'])
    assert_close(features, reference['features'])
    assert_close(state, reference['state'])


@pytest.mark.parametrize('frames_at_once', [1, 4])
def test_streamed_features_match_the_release_in_any_pieces(reference, model, frames_at_once):
    video, state, streamed = reference['stream_video'], None, []
    for first in range(0, len(video), frames_at_once):
        features, state = model.encode(video[None, first : first + frames_at_once], state)
        streamed.append(features[0])
    assert_close(np.concatenate(streamed), reference['stream_features'])
    np.testing.assert_array_equal(state[0], streamed[-1][-1])


@pytest.mark.skipif('RVM_FIXTURES' not in os.environ, reason='RVM_FIXTURES does not name the folder of larger fixtures')
@pytest.mark.parametrize('name', ['official_tiny_96x160.npz', 'official_tiny_256.npz'])
def test_other_frame_sizes_match_the_released_code(name, tmp_path):
    reference = read_reference(pathlib.Path(os.environ.get('RVM_FIXTURES', '')) / name)
    model = pretrained.load(write(tmp_path / 'rvm.npz', weights_of(reference)))
    check_against(reference, model)
    state, streamed = None, []
    for frame in reference['stream_video']:
        features, state = model.encode(frame[None, None], state)
        streamed.append(features[0, 0])
    assert_close(np.stack(streamed), reference['stream_features'])


def test_sizes_are_worked_out_from_the_shapes(reference, model):
    sizes = ast.literal_eval(str(reference['config']))
    arch = model.architecture
    assert (arch.width, arch.encoder_layers, arch.encoder_mlp) == (24, 2, sizes['encoder_mlp'])
    assert (arch.encoder_heads, arch.encoder_head_dim) == (sizes['encoder_heads'], 8)
    assert (arch.core_layers, arch.core_mlp) == (sizes['core_layers'], sizes['core_mlp'])
    assert (arch.core_heads, arch.core_head_dim) == (sizes['core_heads'], 16)  # wider than the tokens: 32, not 24
    assert (arch.decoder_width, arch.decoder_layers, arch.decoder_heads) == (16, 2, sizes['decoder_heads'])
    assert (arch.patch_size, arch.gate_bias, arch.state_norm, arch.delta_embedding) == (16, False, True, True)


@pytest.mark.parametrize('size', ['s', 'b', 'l', 'h'])
def test_preset_sizes_are_read_off_released_shapes(size):
    arch = architecture.SIZES[size]
    shapes = official_rvm.released_shapes(arch)
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    assert official_rvm.infer_architecture(arrays) == arch
    assert len(arrays) == {'s': 525, 'b': 525, 'l': 717, 'h': 845}[size]
    assert arrays['tokenizer/patch_embedding/Conv_0/kernel'].shape == (1, 16, 16, 3, arch.width)


@pytest.mark.parametrize('has_decoder', [True, False])
def test_official_weights_round_trip_bit_for_bit(weights, tmp_path, has_decoder):
    weights = {key: array for key, array in weights.items() if has_decoder or not key.startswith(DECODER)}
    model = pretrained.load(write(tmp_path / 'in.npz', weights))
    assert (model.decoder is not None) == has_decoder
    pretrained.save_official(model, tmp_path / 'sub' / 'out.npz')
    with np.load(tmp_path / 'sub' / 'out.npz', allow_pickle=False) as file:
        found = dict(file)
    assert found.keys() == weights.keys()
    for key, array in weights.items():
        assert found[key].dtype == np.float32 and found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key
    assert [path.name for path in (tmp_path / 'sub').iterdir()] == ['out.npz']


def test_weights_without_a_decoder_encode_but_do_not_reconstruct(weights, reference, tmp_path):
    weights = {key: array for key, array in weights.items() if not key.startswith(DECODER)}
    model = pretrained.load(write(tmp_path / 'rvm.npz', weights))
    features, _ = model.encode(reference['source'])
    assert_close(features, reference['features'])
    with pytest.raises(UserError, match='these weights do not have a decoder'):
        model.reconstruct(reference['source'], reference['target'], reference['deltas'])


def test_every_misfit_is_listed_on_both_sides(weights, tmp_path):
    weights = dict(weights)
    weights['cls_tokens'] = weights.pop('cls_token')
    weights['encoder/layers_1/gate/kernel'] = weights.pop('encoder/layers_1/mlp/dense_out/bias')
    weights['decoder/xa_blocks_1/mlp_norm/scale'] = np.zeros(17, np.float32)
    with pytest.raises(UserError) as error:
        pretrained.load(write(tmp_path / 'rvm.npz', weights))
    message = str(error.value)
    assert 'rvm.npz' in message and '\n' not in message
    for part in (
        'missing cls_token (1, 24)',
        'missing encoder/layers_1/mlp/dense_out/bias (24,)',
        'unexpected cls_tokens (1, 24)',
        'unexpected encoder/layers_1/gate/kernel (24,)',
        'decoder/xa_blocks_1/mlp_norm/scale is (17,), expected (16,)',
    ):
        assert part in message


def test_a_file_of_something_else_is_named(tmp_path):
    with pytest.raises(UserError, match='it has a, b'):
        pretrained.load(write(tmp_path / 'rvm.npz', {'a': np.zeros(3, np.float32), 'b': np.zeros(3, np.float32)}))


def test_a_file_without_the_keys_that_tell_its_sizes_is_named(weights, tmp_path):
    weights = {key: array for key, array in weights.items() if not key.startswith('rnn_core/transformer')}
    with pytest.raises(UserError, match='rnn_core/transformer/xa_blocks_0/attention/query/kernel'):
        pretrained.load(write(tmp_path / 'rvm.npz', weights))


def test_what_has_no_place_in_the_released_layout_is_not_written(model, tmp_path):
    model = nnx.clone(model)
    model.encoder.extra = nnx.Param(jnp.zeros(3))
    with pytest.raises(UserError, match='encoder/extra'):
        pretrained.save_official(model, tmp_path / 'rvm.npz')
    assert not (tmp_path / 'rvm.npz').exists()

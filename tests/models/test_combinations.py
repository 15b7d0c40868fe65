"""Any core with any encoder: what an RVM of them does as a whole."""

import dataclasses

import jax
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax import inference
from rvm_jax.errors import UserError
from rvm_jax.models import architecture

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (2, 5, 16, 24, 3), np.uint8)  # not square
STREAMING = ('rvmrnn', 'mamba', 'mambamix', 'gmmix')


@pytest.fixture(scope='module')
def make(random_model):
    """make(encoder, core): a tiny model without a decoder; changes are keys of config.model."""

    def make_one(encoder, core, **changes):
        config = configs.default()
        config.model.size, config.model.encoder, config.model.core, config.data.image_size = 'tiny', encoder, core, 48
        config.model.core_layers = 1
        for key, value in changes.items():
            config.model[key] = value
        return random_model(dataclasses.replace(architecture.from_config(config), decoder_width=0))

    return make_one


@pytest.mark.parametrize(
    ('encoder', 'core'),
    [*(('dinov3', core) for core in STREAMING), ('vit', 'rvmrnn'), ('vit', 'mamba'), ('siglip2', 'rvmrnn')],
)
def test_a_clip_at_once_equals_one_frame_at_a_time(make, encoder, core):
    model = make(encoder, core)
    whole, last = model.encode(FRAMES)
    prefix = {'vit': 1, 'dinov3': 5, 'siglip2': 0}[encoder]
    assert whole.shape == (2, 5, prefix + 6, 64) and whole.dtype == np.float32
    state, steps = None, []
    for time in range(5):
        features, state = model.step(FRAMES[:, time], state)
        steps.append(features)
    np.testing.assert_allclose(np.stack(steps, 1), whole, atol=1e-5)
    for left, right in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize('core', STREAMING)
def test_a_later_frame_cannot_change_the_past(make, core):
    model = make('dinov3', core)
    changed = FRAMES.copy()
    changed[:, 3] = 255 - changed[:, 3]
    before, after = model.encode(FRAMES)[0], model.encode(changed)[0]
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after[:, 4] - before[:, 4]).max() > 1e-4


@pytest.mark.parametrize('encoder', ['vit', 'dinov3'])
def test_self_attention_sees_a_window_and_tells_its_frames_apart(make, encoder):
    model = make(encoder, 'self_attention')
    changed = FRAMES.copy()
    changed[:, 4] = 255 - changed[:, 4]
    before, after = model.encode(FRAMES)[0], model.encode(changed)[0]
    assert np.abs(after[:, 0] - before[:, 0]).max() > 1e-4
    swapped = model.encode(FRAMES[:, [1, 0, 2, 3, 4]])[0]
    assert np.abs(swapped[:, [1, 0, 2, 3, 4]] - before).max() > 1e-3
    with pytest.raises(UserError, match='self_attention sees windows of frames at once'):
        model.step(FRAMES[:, 0])


def test_joint_attention_of_one_frame_is_the_plain_encoder(make):
    encoder = make('vit', 'self_attention').encoder
    frames = FRAMES[:, :1].astype(np.float32) / 255
    np.testing.assert_allclose(encoder.encode_clip(frames)[:, 0], encoder(frames[:, 0]), atol=1e-5)


def test_self_attention_takes_a_long_video_in_windows(make):
    model = make('dinov3', 'self_attention')
    frames = np.concatenate([FRAMES[0], FRAMES[1]])
    found = np.concatenate(list(inference.encode_stream(model, frames)))
    windows = [model.encode(frames[None, start : start + 4])[0][0] for start in (0, 4, 8)]
    np.testing.assert_allclose(found, np.concatenate(windows), atol=1e-5)


def test_one_mean_and_deviation_is_taken_off_for_every_frame(make):
    model = make('dinov3', 'rvmrnn')
    pixels = FRAMES[:, 0].astype(np.float32) / 255
    normed = (pixels - np.float32(model.encoder.mean)) / np.float32(model.encoder.std)
    expected = model.encoder(normed)[:, model.num_prefix_tokens :]
    np.testing.assert_allclose(model.image_features(pixels[:, None])[:, 0], expected, atol=1e-5)


def test_the_last_depth_alone_needs_no_adapters(make):
    model = make('dinov3', 'rvmrnn', taps='last')
    assert model.adapters is None
    tokens, statistics = model._frozen_tokens(np.zeros((1, 16, 24, 3), np.float32), None)
    np.testing.assert_allclose(tokens, model.encoder(np.zeros((1, 16, 24, 3), np.float32)), atol=1e-5)
    assert statistics == ()


def test_a_size_that_is_not_as_wide_as_the_encoder_is_refused():
    from rvm_jax.models.encoders.image_architecture import standard

    config = configs.default()
    config.model.encoder, config.model.size = 'dinov3', 'l'
    with pytest.raises(UserError, match='the encoder is 384 wide, as size s'):
        architecture.from_config(config, standard('dinov3', 's'))
    so400m = dataclasses.replace(standard('siglip2', 'l'), width=1152, layers=27, mlp=4304)
    config.model.encoder = 'siglip2'
    arch = architecture.from_config(config, so400m)
    assert (arch.width, arch.core_heads, arch.core_head_dim, arch.core_mlp) == (1152, 16, 72, 4608)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.models import architecture, build, patches

RNG = np.random.default_rng(0)
SOURCE = RNG.random((2, 3, 48, 48, 3), np.float32)
TARGET = RNG.random((2, 2, 48, 48, 3), np.float32)
DELTAS = np.int32([[4, 9], [5, 6]])
VISIBLE = np.stack([[RNG.permutation(36)[:5] for _ in range(2)] for _ in range(2)]).astype(np.int32)
PATHS = [
    ('vit', 'shared'), ('rvm', 'frozen_visible'), ('dinov3', 'light_target'), ('dinov3', 'frozen_visible'),
    ('dinov3', 'mask_token'), ('dinov2', 'mask_token'), ('siglip2', 'frozen_visible'), ('clip', 'frozen_visible'),
]  # fmt: skip


def make(encoder, target, **changes):
    config = configs.default()
    config.model.size, config.model.encoder, config.model.target, config.data.image_size = 'tiny', encoder, target, 48
    for key, value in changes.items():
        config.model[key] = value
    model = build.build(architecture.from_config(config), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.02, x.shape), x.dtype) ** 2, model)  # no zeros


def hidden_pixels():
    """1 where a pixel of a target is hidden."""
    mask = np.ones((2, 2, 36, 8 * 8 * 3), np.float32)
    np.put_along_axis(mask, VISIBLE[..., None], 0.0, axis=2)
    return np.asarray(patches.to_pixels(mask, (6, 6), 8))


@pytest.mark.parametrize(('encoder', 'target'), PATHS)
def test_no_hidden_pixel_reaches_the_prediction(encoder, target):
    model = make(encoder, target)
    hidden = hidden_pixels()

    def painted(target_BFHWC):
        return model.reconstruct(SOURCE, target_BFHWC, DELTAS, VISIBLE).pixels

    gradient = jax.jit(jax.grad(lambda frames: jnp.square(painted(frames)).sum()))(TARGET)
    assert np.abs(gradient * hidden).max() == 0
    assert np.isfinite(gradient).all()
    other = np.where(hidden, 1 - TARGET, TARGET)
    np.testing.assert_array_equal(painted(other), painted(TARGET))
    seen = np.where(hidden, TARGET, 1 - TARGET)
    assert np.abs(painted(seen) - painted(TARGET)).max() > 1e-4


@pytest.mark.parametrize('target', ['light_target', 'frozen_visible', 'mask_token'])
def test_targets_do_not_see_each_other(target):
    model = make('dinov3', target)
    changed = TARGET.copy()
    changed[:, 1] = 1 - changed[:, 1]
    before = model.reconstruct(SOURCE, TARGET, DELTAS, VISIBLE).pixels
    after = model.reconstruct(SOURCE, changed, DELTAS, VISIBLE).pixels
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert np.abs(after[:, 1] - before[:, 1]).max() > 1e-4


@pytest.mark.parametrize('target', ['light_target', 'frozen_visible', 'mask_token'])
def test_a_frozen_encoder_gets_no_gradient_but_the_rest_does(target):
    graphdef, params = nnx.split(make('dinov3', target))

    def loss(params):
        out = nnx.merge(graphdef, params).reconstruct(SOURCE, TARGET, DELTAS, VISIBLE)
        return jnp.square(out.pixels).mean()

    largest = jax.tree.map(lambda x: float(np.abs(x).max()), nnx.to_pure_dict(jax.jit(jax.grad(loss))(params)))
    assert max(jax.tree.leaves(largest['encoder'])) == 0
    for part in ('core', 'decoder', 'target', 'adapters'):
        assert max(jax.tree.leaves(largest[part])) > 0, part


def test_the_light_target_is_as_wide_as_the_decoder():
    model = make('dinov3', 'light_target')
    tokens = model.target(TARGET[0], VISIBLE[0])
    assert tokens.shape == (2, 6, model.architecture.decoder_width)


def test_features_of_the_target_are_predicted_for_every_patch():
    config = configs.default()
    config.model.size, config.model.encoder, config.data.image_size = 'tiny', 'dinov2', 48
    config.objective.feature_weight = 0.5
    model = build.build(architecture.from_config(config), rngs=nnx.Rngs(0))
    out = model.reconstruct(SOURCE, TARGET, DELTAS, VISIBLE)
    assert out.predicted.shape == (2, 2, 36, 64)
    assert make('dinov2', 'light_target').reconstruct(SOURCE, TARGET, DELTAS, VISIBLE).predicted is None

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.models import architecture, patches

RNG = np.random.default_rng(0)
SOURCE = RNG.random((2, 3, 48, 48, 3), np.float32)
TARGET = RNG.random((2, 2, 48, 48, 3), np.float32)
DELTAS = np.int32([[4, 9], [5, 6]])
VISIBLE = np.stack([[RNG.permutation(36)[:5] for _ in range(2)] for _ in range(2)]).astype(np.int32)
PATHS = [
    ('vit', 'shared'), ('rvm', 'frozen_visible'), ('dinov3', 'light_target'), ('dinov3', 'frozen_visible'),
    ('dinov3', 'mask_token'), ('dinov2', 'mask_token'), ('siglip2', 'frozen_visible'), ('clip', 'frozen_visible'),
]  # fmt: skip


@pytest.fixture(scope='module')
def make(random_model):
    """make(encoder, target): a tiny model; feature_weight above 0 gives it a feature head."""

    def make_one(encoder, target, feature_weight=0.0):
        config = configs.default()
        config.model.size, config.model.encoder, config.model.target = 'tiny', encoder, target
        config.data.image_size, config.objective.feature_weight = 48, feature_weight
        return random_model(architecture.from_config(config))

    return make_one


@pytest.fixture(scope='module')
def programs(make):
    """programs(encoder, target): (painted(frames) -> pixels, gradients of their squares by parameters and frames)."""

    @functools.cache
    def of_path(encoder, target):
        graphdef, params = nnx.split(make(encoder, target))

        @jax.jit
        def painted(params, target_BFHWC):
            return nnx.merge(graphdef, params).reconstruct(SOURCE, target_BFHWC, DELTAS, VISIBLE).pixels

        squares = jax.grad(lambda params, frames: jnp.square(painted(params, frames)).sum(), argnums=(0, 1))
        return functools.partial(painted, params), jax.device_get(jax.jit(squares)(params, TARGET))

    return of_path


def hidden_pixels():
    """1 where a pixel of a target is hidden."""
    mask = np.ones((2, 2, 36, 8 * 8 * 3), np.float32)
    np.put_along_axis(mask, VISIBLE[..., None], 0.0, axis=2)
    return np.asarray(patches.to_pixels(mask, (6, 6), 8))


# Each way to encode a target once; with every encoder in the long tests.
@pytest.mark.parametrize(
    ('encoder', 'target'),
    [*PATHS[:3], PATHS[4], *(pytest.param(*path, marks=pytest.mark.long) for path in (PATHS[3], *PATHS[5:]))],
)
def test_no_hidden_pixel_reaches_the_prediction(programs, encoder, target):
    painted, (_, gradient) = programs(encoder, target)
    hidden = hidden_pixels()
    assert np.abs(gradient * hidden).max() == 0
    assert np.isfinite(gradient).all()
    before = painted(TARGET)
    np.testing.assert_array_equal(painted(np.where(hidden, 1 - TARGET, TARGET)), before)
    assert np.abs(painted(np.where(hidden, TARGET, 1 - TARGET)) - before).max() > 1e-4


@pytest.mark.parametrize('target', ['light_target', 'frozen_visible', 'mask_token'])
def test_targets_do_not_see_each_other(programs, target):
    painted, _ = programs('dinov3', target)
    changed = TARGET.copy()
    changed[:, 1] = 1 - changed[:, 1]
    before, after = painted(TARGET), painted(changed)
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert np.abs(after[:, 1] - before[:, 1]).max() > 1e-4


@pytest.mark.parametrize('target', ['light_target', 'frozen_visible', 'mask_token'])
def test_a_frozen_encoder_gets_no_gradient_and_the_rest_does(programs, target):
    _, (gradients, _) = programs('dinov3', target)
    largest = jax.tree.map(lambda x: float(np.abs(x).max()), nnx.to_pure_dict(gradients))
    assert max(jax.tree.leaves(largest['encoder'])) == 0
    for part in ('core', 'decoder', 'target', 'adapters'):
        assert max(jax.tree.leaves(largest[part])) > 0, part


def test_the_light_target_is_as_wide_as_the_decoder(make):
    model = make('dinov3', 'light_target')
    tokens = model.target(TARGET[0], VISIBLE[0])
    assert tokens.shape == (2, 6, model.architecture.decoder_width)


def test_features_of_the_target_are_predicted_for_every_patch(make):
    shapes = {
        weight: jax.eval_shape(make('dinov2', 'auto', weight).reconstruct, SOURCE, TARGET, DELTAS, VISIBLE)
        for weight in (0.0, 0.5)
    }
    assert shapes[0.5].predicted.shape == (2, 2, 36, 64)
    assert shapes[0.0].predicted is None

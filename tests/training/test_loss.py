import types

import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.models import patches
from rvm_jax.models.rvm import Reconstruction
from rvm_jax.training.loss import compared_losses, pixel_loss

RNG = np.random.default_rng(0)
BATCH = {
    'source_BTHWC': RNG.integers(0, 256, (2, 3, 8, 8, 3), np.uint8),
    'target_BFHWC': RNG.integers(0, 256, (2, 2, 8, 8, 3), np.uint8),
    'deltas_BF': np.int32([[4, 20], [48, 51]]),
}
PIXELS = RNG.random((2, 2, 8, 8, 3), np.float32)
VISIBLE = np.int32([[[0], [1]], [[2], [3]]])  # of the four patches of 4 x 4 pixels


class Oracle:
    """Stands for a model: answers the same, and notes what it was asked."""

    patch_size = 4

    def reconstruct(self, source, target, deltas, visible, learning=None):
        self.asked = types.SimpleNamespace(
            source=source, target=target, deltas=deltas, visible=visible, learning=learning
        )
        return Reconstruction(jnp.asarray(PIXELS), jnp.asarray(VISIBLE), None)


def loss(**options):
    return float(pixel_loss(Oracle(), BATCH, VISIBLE, **options)[0])


def target_patches():
    return np.asarray(patches.to_patches(BATCH['target_BFHWC'].astype(np.float64) / 255, 4))


def error_patches(target_BFNP):
    return np.square(np.asarray(patches.to_patches(PIXELS, 4)) - target_BFNP).mean(-1)


def test_the_loss_is_the_mean_over_all_pixels():
    assert loss() == pytest.approx(np.square(PIXELS - BATCH['target_BFHWC'] / 255).mean(), rel=1e-6)


def test_masked_counts_the_hidden_patches_alone():
    hidden = np.arange(4) != VISIBLE
    assert loss(region='masked') == pytest.approx(error_patches(target_patches())[hidden].mean(), rel=1e-6)


@pytest.mark.parametrize('region', ['all', 'masked'])
def test_patch_norm_standardizes_each_target_patch(region):
    target = target_patches()
    target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, keepdims=True) + 1e-6)
    counted = np.arange(4) != VISIBLE if region == 'masked' else np.full((2, 2, 4), True)
    assert loss(region=region, patch_norm=True) == pytest.approx(error_patches(target)[counted].mean(), rel=1e-5)


def test_the_model_gets_batch_and_masks_unchanged():
    model = Oracle()
    _, out = pixel_loss(model, BATCH, VISIBLE, learning='learning')
    assert model.asked.source is BATCH['source_BTHWC'] and model.asked.target is BATCH['target_BFHWC']
    assert model.asked.deltas is BATCH['deltas_BF'] and model.asked.visible is VISIBLE
    assert model.asked.learning == 'learning'
    np.testing.assert_array_equal(out.visible, VISIBLE)


def test_a_perfect_reconstruction_costs_nothing():
    batch = BATCH | {'target_BFHWC': PIXELS}
    assert float(pixel_loss(Oracle(), batch, None)[0]) == 0


def test_trivial_predictors_copy_a_frame_or_show_a_mean_color():
    source, target = BATCH['source_BTHWC'] / 255, BATCH['target_BFHWC'] / 255
    found, out = compared_losses(Oracle(), BATCH, None)
    assert float(found['loss']) == pytest.approx(loss(), rel=1e-6)
    assert float(found['copy_last']) == pytest.approx(np.square(source[:, -1:] - target).mean(), rel=1e-6)
    means = np.stack([clip.reshape(-1, 3).mean(0) for clip in source])[:, None, None, None]
    assert float(found['mean_color']) == pytest.approx(np.square(means - target).mean(), rel=1e-6)
    np.testing.assert_allclose(out.pixels, PIXELS, atol=1e-6)


@pytest.mark.parametrize('options', [{'region': 'masked'}, {'patch_norm': True}])
def test_trivial_predictors_have_the_same_rule_as_the_model(options):
    still = np.repeat(BATCH['source_BTHWC'][:, -1:], 2, axis=1)
    model, target = Oracle(), target_patches()
    painted = np.asarray(patches.to_patches(still / 255, 4))
    if options.get('patch_norm'):  # a model that says what copying would, in the units it is asked for
        painted = (painted - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, keepdims=True) + 1e-6)
    pixels = patches.to_pixels(jnp.asarray(painted, jnp.float32), (2, 2), 4)
    model.reconstruct = lambda *_, **__: Reconstruction(pixels, jnp.asarray(VISIBLE), None)
    found, out = compared_losses(model, BATCH, None, **options)
    assert float(found['loss']) == pytest.approx(float(found['copy_last']), rel=1e-4)
    np.testing.assert_allclose(out.pixels, still / 255, atol=1e-4)

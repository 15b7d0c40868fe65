import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.models.rvm import Reconstruction
from rvm_jax.training.loss import compared_losses, feature_loss, pixel_loss

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(3.0, 5.0, (2, 2, 4, 8)).astype(np.float32)
PREDICTED = RNG.normal(0.0, 1.5, (2, 2, 4, 8)).astype(np.float32)
TARGET = RNG.integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
BATCH = {'source_BTHWC': TARGET, 'target_BFHWC': TARGET, 'deltas_BF': np.int32([[4, 20], [48, 51]])}


class Oracle:
    """Stands for a model on a frozen encoder; notes the frames whose features it was asked for."""

    patch_size = 4

    def image_features(self, frames_BFHWC):
        self.frames = frames_BFHWC
        return jnp.asarray(FEATURES)

    def reconstruct(self, source, target, deltas, visible, learning=None):
        return Reconstruction(jnp.zeros(TARGET.shape), visible, None, jnp.asarray(PREDICTED))


def normed():
    return (FEATURES - FEATURES.mean(-1, keepdims=True)) / np.sqrt(FEATURES.var(-1, keepdims=True) + 1e-6)


def test_it_is_smooth_l1_to_standardized_features():
    model = Oracle()
    error = np.abs(PREDICTED - normed())
    assert (error < 1).any() and (error > 1).any()
    expected = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert float(feature_loss(model, TARGET, jnp.asarray(PREDICTED))) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.frames, TARGET / np.float32(255), rtol=1e-6)


def test_a_perfect_prediction_costs_nothing():
    assert float(feature_loss(Oracle(), TARGET, jnp.asarray(normed()))) < 1e-10


def test_it_is_added_by_its_weight_and_no_evaluation_counts_it():
    visible = np.int32([[[0], [1]], [[2], [3]]])
    plain = float(pixel_loss(Oracle(), BATCH, visible)[0])
    both = float(pixel_loss(Oracle(), BATCH, visible, feature_weight=0.5)[0])
    assert both - plain == pytest.approx(0.5 * float(feature_loss(Oracle(), TARGET, PREDICTED)), rel=1e-5)
    assert float(compared_losses(Oracle(), BATCH, visible)[0]['loss']) == plain

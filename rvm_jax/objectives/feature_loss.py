"""Prediction of a frozen encoder's own features of the target frames, beside or instead of fine pixels."""

import jax
import jax.numpy as jnp

from rvm_jax.models.rvm import to_unit_range


def feature_loss(model, target_BFHWC, predicted_BFND):
    """Smooth L1 between predicted features of every target patch and the encoder's, a mean over all, float32.

    The truth is the last depth of the whole, unmasked frame, each patch with zero mean and unit variance; no gradient
    goes there. |x| < 1 counts x^2 / 2, the rest |x| - 1/2.
    """
    truth_BFND = jax.lax.stop_gradient(model.image_features(to_unit_range(target_BFHWC))).astype(jnp.float32)
    error = jnp.abs(predicted_BFND - jax.nn.standardize(truth_BFND, axis=-1, epsilon=1e-6))
    return jnp.where(error < 1, jnp.square(error) / 2, error - 0.5).mean()

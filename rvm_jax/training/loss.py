"""The objective: mean squared error between reconstructed and true pixels of the target frames (RVM, section 3.1).

For a frozen encoder also, or instead of fine pixels, the error of its predicted features.
"""

import jax
import jax.numpy as jnp

from rvm_jax.models import masking, patches
from rvm_jax.models.rvm import to_unit_range


def pixel_loss(model, batch, visible_BFV, *, region='all', patch_norm=False, feature_weight=0.0, learning=None):
    """Reconstruct the batch's targets from their visible patches.

    Returns (loss, Reconstruction). learning: given in training alone, see models/dropout.py. feature_weight adds so
    much of `feature_loss`. The loss of pixels is the mean over clips, targets, pixels and channels in float32: over
    every pixel, or with region 'masked' over the hidden patches alone. patch_norm gives each target patch zero mean
    and unit variance first (MAE), and the model learns to paint those; the paper does not.
    """
    source_BTHWC, target_BFHWC, deltas_BF = batch['source_BTHWC'], batch['target_BFHWC'], batch['deltas_BF']
    out = model.reconstruct(source_BTHWC, target_BFHWC, deltas_BF, visible_BFV, learning=learning)
    target_BFNP, mean_BFN1, std_BFN1 = _target_patches(model, batch, patch_norm)
    painted_BFNP = patches.to_patches(out.pixels, model.patch_size)
    loss = _mean_error(painted_BFNP, (target_BFNP - mean_BFN1) / std_BFN1, out.visible, region)
    if feature_weight:
        loss = loss + feature_weight * feature_loss(model, target_BFHWC, out.predicted)
    return loss, out


def feature_loss(model, target_BFHWC, predicted_BFND):
    """Smooth L1 between predicted features of every target patch and the encoder's, a mean over all, float32.

    The truth is the last depth of the whole, unmasked frame, each patch with zero mean and unit variance; no gradient
    goes there. |x| < 1 counts x^2 / 2, the rest |x| - 1/2.
    """
    truth_BFND = jax.lax.stop_gradient(model.image_features(to_unit_range(target_BFHWC))).astype(jnp.float32)
    error = jnp.abs(predicted_BFND - jax.nn.standardize(truth_BFND, axis=-1, epsilon=1e-6))
    return jnp.where(error < 1, jnp.square(error) / 2, error - 0.5).mean()


def compared_losses(model, batch, visible_BFV, *, region='all', patch_norm=False):
    """The loss beside that of two predictors that learn nothing, by the same rule, and the Reconstruction in pixels.

    {'loss', 'copy_last', 'mean_color'}, of pixels alone: copy_last shows the last source frame again, mean_color the
    mean color of the clip's source frames.
    """
    loss, out = pixel_loss(model, batch, visible_BFV, region=region, patch_norm=patch_norm)
    target_BFNP, mean_BFN1, std_BFN1 = _target_patches(model, batch, patch_norm)
    source_BTHWC = to_unit_range(batch['source_BTHWC'])
    trivial = {'copy_last': source_BTHWC[:, -1:], 'mean_color': source_BTHWC.mean((1, 2, 3), keepdims=True)}
    losses = {'loss': loss}
    for name, frames in trivial.items():
        frames = jnp.broadcast_to(frames, batch['target_BFHWC'].shape)
        error = (patches.to_patches(frames, model.patch_size) - target_BFNP) / std_BFN1
        losses[name] = _mean_error(error, 0.0, out.visible, region)
    painted_BFNP = patches.to_patches(out.pixels, model.patch_size) * std_BFN1 + mean_BFN1
    grid = patches.grid_size(*out.pixels.shape[2:4], patch_size=model.patch_size)
    return losses, out._replace(pixels=patches.to_pixels(painted_BFNP, grid, model.patch_size))


def _target_patches(model, batch, patch_norm):
    """Target patches, and the mean and deviation that the model's patches are relative to."""
    target_BFNP = patches.to_patches(to_unit_range(batch['target_BFHWC']), model.patch_size)
    if not patch_norm:
        return target_BFNP, 0.0, 1.0
    return target_BFNP, target_BFNP.mean(-1, keepdims=True), jnp.sqrt(target_BFNP.var(-1, keepdims=True) + 1e-6)


def _mean_error(painted_BFNP, target_BFNP, visible_BFV, region):
    error_BFN = jnp.square(painted_BFNP - target_BFNP).mean(-1)
    if region == 'all':
        return error_BFN.mean()
    hidden_BFN = masking.hidden_mask(visible_BFV, error_BFN.shape[-1])
    return (error_BFN * hidden_BFN).sum() / hidden_BFN.sum()

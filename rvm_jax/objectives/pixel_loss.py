"""RVM's objective: mean squared error between reconstructed and true pixels of the target frames (RVM, section 3.1)."""

import jax.numpy as jnp

from rvm_jax.models import masking, patches
from rvm_jax.models.rvm import to_unit_range


def pixel_loss(model, batch, key, *, region='all', patch_norm=False):
    """Reconstruct the batch's targets with masks drawn by key.

    Returns (loss, Reconstruction). The loss is the mean over clips, targets, pixels and channels in float32: over
    every pixel, or with region 'masked' over the hidden patches alone. patch_norm gives each target patch zero mean
    and unit variance first (MAE); the paper does not.
    """
    out = model.reconstruct(batch['source_BTHWC'], batch['target_BFHWC'], batch['deltas_BF'], key=key)
    target_BFNP = patches.to_patches(to_unit_range(batch['target_BFHWC']), model.patch_size)
    if patch_norm:
        mean, var = target_BFNP.mean(-1, keepdims=True), target_BFNP.var(-1, keepdims=True)
        target_BFNP = (target_BFNP - mean) / jnp.sqrt(var + 1e-6)
    error_BFN = jnp.square(patches.to_patches(out.pixels, model.patch_size) - target_BFNP).mean(-1)
    if region == 'all':
        return error_BFN.mean(), out
    hidden_BFN = masking.hidden_mask(out.visible, error_BFN.shape[-1])
    return (error_BFN * hidden_BFN).sum() / hidden_BFN.sum(), out


def trivial_losses(batch):
    """Pixel loss of two predictors that learn nothing: {'copy_last', 'mean_color'}, to set a loss beside.

    copy_last shows the last source frame again, mean_color the mean color of the source frames of the clip.
    """
    source_BTHWC, target_BFHWC = (to_unit_range(batch[name]) for name in ('source_BTHWC', 'target_BFHWC'))
    mean_B11111C = source_BTHWC.mean((1, 2, 3), keepdims=True)
    return {
        'copy_last': jnp.square(source_BTHWC[:, -1:] - target_BFHWC).mean(),
        'mean_color': jnp.square(mean_B11111C - target_BFHWC).mean(),
    }

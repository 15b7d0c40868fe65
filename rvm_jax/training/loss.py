"""What training minimizes: objectives, by name, and the losses of predictors that learn nothing.

The paper's objective is the mean squared error between reconstructed and true pixels of the target frames (RVM, section
3.1). For a frozen encoder the error of its predicted features can be added.

To add an objective, write a function with the arguments of `pixel_loss`, and a line in `OBJECTIVES` in config.py.
"""

import functools
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections

from rvm_jax import plugins
from rvm_jax.config import OBJECTIVES
from rvm_jax.models import masking, patches
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.rvm import RVM, Reconstruction, to_unit_range

Objective = Callable[..., tuple[jax.Array, Reconstruction]]  # (model, batch, visible_BFV, learning=...)
Batch = Mapping[str, jax.Array]  # the arrays of data/batch.py that go to the devices


def pixel_loss(
    model: RVM,
    batch: Batch,
    visible_BFV: jax.Array | None,
    *,
    region: str = 'all',
    patch_norm: bool = False,
    feature_weight: float = 0.0,
    learning: TrainContext | None = None,
) -> tuple[jax.Array, Reconstruction]:
    """Reconstruct the batch's targets from their visible patches (RVM, section 3.1).

    Returns (loss, Reconstruction). learning is given in training only, see models/dropout.py. The loss is the mean over
    clips, targets, pixels and channels in float32: over every pixel, or with region 'masked' over the hidden patches
    only. With patch_norm each target patch has zero mean and unit variance (MAE), and the model predicts those values;
    the paper does not do this. feature_weight times `feature_loss` is added.
    """
    source_BTHWC, target_BFHWC, deltas_BF = batch['source_BTHWC'], batch['target_BFHWC'], batch['deltas_BF']
    out = model.reconstruct(source_BTHWC, target_BFHWC, deltas_BF, visible_BFV, learning=learning)
    target_BFNP, mean_BFN1, std_BFN1 = _target_patches(model, batch, patch_norm)
    painted_BFNP = patches.to_patches(out.pixels, model.patch_size)
    loss = _mean_error(painted_BFNP, (target_BFNP - mean_BFN1) / std_BFN1, out.visible, region)
    if feature_weight:
        predicted_BFND = cast(jax.Array, out.predicted)  # config.check allows a weight for frozen encoders only
        loss = loss + feature_weight * feature_loss(model, target_BFHWC, predicted_BFND)
    return loss, out


def feature_loss(model: RVM, target_BFHWC: jax.Array, predicted_BFND: jax.Array) -> jax.Array:
    """Smooth L1 between predicted features of every target patch and the encoder's: a mean over all, float32.

    The truth is the encoder's last layer on the unmasked frame, each patch with zero mean and unit variance; it gets no
    gradient. An error x counts x^2 / 2 where |x| < 1, and |x| - 1/2 elsewhere.
    """
    truth_BFND = jax.lax.stop_gradient(model.image_features(to_unit_range(target_BFHWC))).astype(jnp.float32)
    error = jnp.abs(predicted_BFND - jax.nn.standardize(truth_BFND, axis=-1, epsilon=1e-6))
    return jnp.where(error < 1, jnp.square(error) / 2, error - 0.5).mean()


def objective_of(settings: ml_collections.ConfigDict) -> Objective:
    """The function of a config's `objective.name`, with the other keys of `objective` filled in by name.

    Its other arguments are a model, a batch, the visible patches and `learning`; it returns a mean over clips, and the
    Reconstruction.
    """
    keys = settings.to_dict()
    name = keys.pop('name')
    is_own = plugins.is_name(name)
    function = plugins.find(name, plugins.OBJECTIVE) if is_own else pkgutil.resolve_name(OBJECTIVES[name])
    return functools.partial(function, **keys)


def compared_losses(
    model: RVM, batch: Batch, visible_BFV: jax.Array | None, *, region: str = 'all', patch_norm: bool = False
) -> tuple[dict[str, jax.Array], Reconstruction]:
    """The loss of pixels beside that of two predictors that learn nothing, and the Reconstruction in pixels.

    {'loss', 'copy_last', 'mean_color'}: copy_last shows the last source frame again, mean_color the mean color of the
    clip's source frames. All three follow the same rule, whatever the objective of training is: the two others predict
    nothing but pixels.
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


def comparison_of(settings: ml_collections.ConfigDict) -> Callable[..., Any]:
    """`compared_losses` by the rule of a config's `objective`."""
    return functools.partial(compared_losses, region=settings.region, patch_norm=settings.patch_norm)


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

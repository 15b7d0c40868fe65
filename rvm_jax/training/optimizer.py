"""AdamW with warm-up and cosine decay; weight decay by parameter name; non-finite steps are skipped."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from rvm_jax.errors import UserError
from rvm_jax.models.param_names import path_name

DECAYED = ('kernel',)
# By name, because attention biases and tokens have two axes too. A_log and D of Mamba as in its authors' code.
NOT_DECAYED = ('bias', 'scale', 'cls_token', 'mask_token', 'depth_token', 'A_log', 'D')


def learning_rate(optim: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Step -> learning rate: linear from 0 over the fraction `warmup` of all steps, then cosine to `end_lr`."""
    warmup = min(round(optim.warmup * steps), steps - 1)  # optax needs at least one step of decay
    return optax.warmup_cosine_decay_schedule(0.0, optim.peak_lr, warmup, steps, optim.end_lr)


def make_optimizer(optim: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformationExtraArgs:
    """The optax transformation of a config's `optim` sub-tree.

    update(gradients, state, params, norm=None, is_finite=None): norm is that of the gradients, is_finite whether the
    step counts. Both are computed if they are not given; a train step has them already, and reading every gradient
    again for each takes a hundredth of its memory traffic. A step that does not count changes neither parameters nor
    moments; the state counts such steps, see `nonfinite_steps`.
    """
    adamw = optax.adamw(
        learning_rate(optim, steps), optim.b1, optim.b2, optim.eps, weight_decay=optim.weight_decay, mask=decay_mask
    )
    # Checkpoints hold the state of optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(...), adamw)), so the
    # state has this form although clipping is done below: identity stands in the place of clip_by_global_norm.
    inner = optax.chain(optax.identity(), adamw)

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return optax.ApplyIfFiniteState(zero, jnp.array(True), zero, inner.init(params))

    def update(gradients, state, params=None, *, norm=None, is_finite=None):
        norm = optax.tree.norm(gradients) if norm is None else norm
        is_finite = jnp.isfinite(norm) if is_finite is None else is_finite

        def changed():
            return inner.update(_clipped(gradients, norm, optim.clip_norm), state.inner_state, params)

        def unchanged():
            return optax.tree.zeros_like(gradients), state.inner_state

        updates, inner_state = jax.lax.cond(is_finite, changed, unchanged)
        in_a_row = jnp.where(is_finite, 0, state.notfinite_count + 1)
        in_total = state.total_notfinite + jnp.where(is_finite, 0, 1)
        return updates, optax.ApplyIfFiniteState(in_a_row, is_finite, in_total, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _clipped(gradients, norm, limit):
    """Gradients scaled down to at most this norm; unchanged if limit is 0."""
    if not limit:
        return gradients
    return jax.tree.map(lambda x: jnp.where(norm < limit, x, x / norm.astype(x.dtype) * limit), gradients)


def nonfinite_steps(opt_state: optax.ApplyIfFiniteState) -> tuple[jax.Array, jax.Array]:
    """Number of skipped steps: (in a row up to now, in total)."""
    return opt_state.notfinite_count, opt_state.total_notfinite


def decay_mask(params: Any) -> Any:
    """True for every parameter that has weight decay. UserError for a name in neither list."""

    def decays(path, _):
        name = path_name(path).split('/')[-1]
        if name not in DECAYED + NOT_DECAYED:
            reason = f'is a parameter, and its name {name} does not say whether weight decay applies'
            raise UserError(path_name(path), reason, 'name it kernel (decay), or bias or scale (none)')
        return name in DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)

"""AdamW with warm-up and cosine decay, decay chosen by parameter name, non-finite steps skipped."""

import jax
import jax.numpy as jnp
import optax

from rvm_jax.models.param_names import path_name

DECAYED = ('kernel',)
# By name: attention biases and tokens have two axes. A_log and D of Mamba: as its authors do.
NOT_DECAYED = ('bias', 'scale', 'cls_token', 'mask_token', 'depth_token', 'A_log', 'D')


def learning_rate(optim, steps):
    """Optimizer step -> learning rate: linear from 0 over `warmup` of all steps, then cosine to `end_lr`."""
    warmup = min(round(optim.warmup * steps), steps - 1)  # optax wants a step to decay in
    return optax.warmup_cosine_decay_schedule(0.0, optim.peak_lr, warmup, steps, optim.end_lr)


def make_optimizer(optim, steps):
    """The optax transformation of a config's `optim` sub-tree.

    update(gradients, state, params, norm=None, is_finite=None): norm is that of the gradients; is_finite whether the
    step counts. Both are worked out where they are not given; a step knows them already, and reading every gradient
    once more for each takes a hundredth of a step's memory traffic. A step that does not count changes neither
    parameters nor moments; the state counts such steps, see `nonfinite_steps`.
    """
    adamw = optax.adamw(
        learning_rate(optim, steps), optim.b1, optim.b2, optim.eps, weight_decay=optim.weight_decay, mask=decay_mask
    )
    # The state is that of optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(...), adamw)).
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
    """Gradients of at most this norm; limit 0: as they are."""
    if not limit:
        return gradients
    return jax.tree.map(lambda x: jnp.where(norm < limit, x, x / norm.astype(x.dtype) * limit), gradients)


def nonfinite_steps(opt_state):
    """(in a row up to now, in total) steps that were skipped."""
    return opt_state.notfinite_count, opt_state.total_notfinite


def decay_mask(params):
    """True for every parameter that weight decay pulls on; a name in neither list is an error."""

    def decays(path, _):
        name = path_name(path).split('/')[-1]
        if name not in DECAYED + NOT_DECAYED:
            raise ValueError(f'{path_name(path)}: say in optimizer.py whether weight decay applies to {name}')
        return name in DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)

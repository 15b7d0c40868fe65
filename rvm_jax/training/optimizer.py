"""AdamW with warm-up and cosine decay, decay chosen by parameter name, non-finite steps skipped."""

import jax
import optax

from rvm_jax.conversion.mapping import path_name

DECAYED = ('kernel',)
# By name: attention biases and tokens have two axes. A_log and D of Mamba: as its authors do.
NOT_DECAYED = ('bias', 'scale', 'cls_token', 'mask_token', 'depth_token', 'A_log', 'D')


def learning_rate(optim, steps):
    """Optimizer step -> learning rate: linear from 0 over `warmup` of all steps, then cosine to `end_lr`."""
    warmup = min(round(optim.warmup * steps), steps - 1)  # optax wants a step to decay in
    return optax.warmup_cosine_decay_schedule(0.0, optim.peak_lr, warmup, steps, optim.end_lr)


def make_optimizer(optim, steps):
    """The optax transformation of a config's `optim` sub-tree.

    A step whose gradient is not finite changes neither parameters nor moments; the state counts such steps, see
    `nonfinite_steps`. optax would let one through after a limit, which is set out of reach: the loop stops before.
    """
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(optim, steps), optim.b1, optim.b2, optim.eps, weight_decay=optim.weight_decay, mask=decay_mask
    )
    return optax.apply_if_finite(optax.chain(clip, adamw), max_consecutive_errors=2**30)


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

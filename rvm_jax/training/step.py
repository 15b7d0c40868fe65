"""One optimizer step, and one evaluation step: pure functions of state and batch."""

import functools

import jax
import optax
from flax import nnx

from rvm_jax.training.optimizer import nonfinite_steps


def make_train_step(graphdef, optimizer, objective):
    """train_step(state, batch) -> (state, metrics), jitted; the old state's buffers are reused.

    objective(model, batch, key) -> (loss, anything). The masks of step s follow from the run's key and s alone.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state['key']), state['step'])

        def loss_of(params):
            return objective(nnx.merge(graphdef, params), batch, key)

        (loss, _), gradients = jax.value_and_grad(loss_of, has_aux=True)(state['params'])
        updates, opt_state = optimizer.update(gradients, state['opt_state'], state['params'])
        in_a_row, in_total = nonfinite_steps(opt_state)
        metrics = {
            'loss': loss,
            'grad_norm': optax.tree.norm(gradients),
            'skipped_steps': in_total,
            'skipped_in_a_row': in_a_row,
        }
        params = optax.apply_updates(state['params'], updates)
        return state | {'step': state['step'] + 1, 'params': params, 'opt_state': opt_state}, metrics

    return train_step


def make_eval_step(graphdef, compared_losses):
    """eval_step(params, batch, key) -> (losses, Reconstruction), jitted: ours beside the trivial predictors."""

    @jax.jit
    def eval_step(params, batch, key):
        return compared_losses(nnx.merge(graphdef, params), batch, key)

    return eval_step

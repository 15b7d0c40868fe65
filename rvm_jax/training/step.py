"""One optimizer step, and one evaluation step: pure functions of state and batch."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from rvm_jax.models import trainable
from rvm_jax.models.dropout import TrainContext
from rvm_jax.training import sharding
from rvm_jax.training.optimizer import nonfinite_steps


def make_train_step(
    graphdef, optimizer, objective, abstract_state, gather=None, abstract_frozen=None, compiler_options=None
):
    """train_step(state, batch, frozen=None) -> (state, metrics), jitted; the old state's buffers are reused.

    objective(model, batch, visible_BFV, learning=...) -> (loss, Reconstruction), the loss a mean over clips. It sees
    one device's clips, with parameters that `gather` makes whole. frozen are the parameters that do not train: an
    input like the batch, of which there is no gradient. What step s draws follows from the run's key and s alone,
    whatever the devices. abstract_state says by its shardings where everything lies; the optimizer works on parts of
    the weights if its state lies in parts. compiler_options: of `jax.jit`.
    """
    abstract_params, abstract_frozen = abstract_state['params'], abstract_frozen or {}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    mesh = shardings['step'].mesh
    weight_specs = _specs(abstract_params)
    statistics_specs = _specs(abstract_state.get('statistics', {}))
    gradient_shardings = sharding.state_shardings(mesh, abstract_params)
    gradient_specs = jax.tree.map(lambda leaf: leaf.spec, gradient_shardings)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(weight_specs, statistics_specs, _specs(abstract_frozen), *(sharding.BATCH,) * 3),
        out_specs=(PartitionSpec(), PartitionSpec(), gradient_specs),
        check_vma=False,
    )
    def loss_and_gradients(params, statistics, frozen, batch, visible_BFV, keys_B2):
        def loss_of(params):
            model = _merge(graphdef, trainable.joined(params, statistics, frozen), gather)
            loss, out = objective(model, batch, visible_BFV, learning=TrainContext(keys_B2, sharding.AXES))
            return loss, out.statistics

        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        gradients = sharding.mean_gradients(gradients, weight_specs, gradient_specs)
        return sharding.mean(loss), statistics, gradients

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None), compiler_options=compiler_options)
    def train_step(state, batch, frozen=None):
        frozen = frozen or {}
        key = jax.random.fold_in(jax.random.wrap_key_data(state['key']), state['step'])
        visible_BFV = _draw_visible(graphdef, trainable.of_model(state, frozen), batch, key)
        keys_B2 = jax.random.key_data(jax.random.split(jax.random.fold_in(key, 1), len(visible_BFV)))
        statistics = state.get('statistics', {})
        loss, new_statistics, gradients = loss_and_gradients(
            state['params'], statistics, frozen, batch, visible_BFV, keys_B2
        )
        norm = optax.tree.norm(gradients)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)  # clipping by a norm that overflowed would make zeros
        params = jax.lax.with_sharding_constraint(state['params'], gradient_shardings)
        updates, opt_state = optimizer.update(gradients, state['opt_state'], params, norm=norm, is_finite=is_finite)
        in_a_row, in_total = nonfinite_steps(opt_state)
        metrics = {
            'loss': loss,
            'grad_norm': norm,
            'skipped_steps': in_total,
            'skipped_in_a_row': in_a_row,
        }
        params = optax.apply_updates(params, updates)
        state = state | {'step': state['step'] + 1, 'params': params, 'opt_state': opt_state}
        if statistics:  # a step that is skipped leaves them as they were, too
            state['statistics'] = jax.tree.map(functools.partial(jnp.where, in_a_row > 0), statistics, new_statistics)
        return state, metrics

    return train_step


def make_eval_step(graphdef, compared_losses, abstract_params, gather=None):
    """eval_step(params, batch, key) -> (losses, Reconstruction), jitted: ours beside the trivial predictors.

    params are all of the model's, frozen ones and statistics included.
    """

    @functools.partial(
        jax.shard_map,
        mesh=jax.tree.leaves(abstract_params)[0].sharding.mesh,
        in_specs=(_specs(abstract_params), sharding.BATCH, sharding.BATCH),
        out_specs=(PartitionSpec(), sharding.BATCH),
        check_vma=False,
    )
    def losses_and_reconstruction(params, batch, visible_BFV):
        losses, out = compared_losses(_merge(graphdef, params, gather), batch, visible_BFV)
        return sharding.mean(losses), out

    @jax.jit
    def eval_step(params, batch, key):
        return losses_and_reconstruction(params, batch, _draw_visible(graphdef, params, batch, key))

    return eval_step


def _specs(abstract):
    return jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)


def _merge(graphdef, params, gather):
    return nnx.merge(graphdef, params if gather is None else gather(params))


def _draw_visible(graphdef, params, batch, key):
    """The masks of all clips of a step, drawn together: what a clip gets does not depend on the device it is on."""
    return nnx.merge(graphdef, params).random_visible(key, batch['target_BFHWC'].shape)

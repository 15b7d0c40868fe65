"""One optimizer step, and one evaluation step: pure functions of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from rvm_jax.models import trainable
from rvm_jax.models.dropout import TrainContext
from rvm_jax.training import sharding
from rvm_jax.training.loss import Objective
from rvm_jax.training.optimizer import nonfinite_steps

Gather = Callable[[Any], Any]  # a device's parts of the parameters -> whole arrays, see `sharding.make_gather`


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    abstract_state: dict[str, Any],
    gather: Gather | None = None,
    abstract_frozen: dict[str, Any] | None = None,
    compiler_options: dict[str, Any] | None = None,
    *,
    accumulate: int = 1,
    ema: float = 0.0,
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
    """train_step(state, batch, frozen=None) -> (state, metrics), jitted; the buffers of the old state are reused.

    objective(model, batch, visible_BFV, learning=...) -> (loss, Reconstruction), the loss a mean over clips. It sees
    one device's clips, with parameters that `gather` makes whole. frozen are the parameters that do not train: an input
    like the batch, without a gradient. What step s draws follows from the run's key and s alone, on any number of
    devices. The shardings of abstract_state say where everything lies; the optimizer works on parts of the weights if
    its state lies in parts. compiler_options are those of `jax.jit`.

    accumulate: parts that each device computes its clips in, one after the other; gradients are summed in float32, so
    only memory and rounding change. Batch norms are the exception: they see a part at a time. ema: decay of the moving
    average of the weights in the state, if it has one; the decay of step s is at most (1 + s) / (10 + s), so that the
    first weights are soon forgotten.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    gradient_shardings = sharding.state_shardings(shardings['step'].mesh, abstract_state['params'])
    loss_and_gradients = _make_loss_and_gradients(
        graphdef, objective, abstract_state, gather, abstract_frozen or {}, gradient_shardings, accumulate
    )

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None), compiler_options=compiler_options)
    def train_step(state, batch, frozen=None):
        frozen = frozen or {}

        # Masks and dropout keys are drawn for the whole batch, before it is divided over the devices.
        key = jax.random.fold_in(jax.random.wrap_key_data(state['key']), state['step'])
        visible_BFV = _draw_visible(graphdef, trainable.of_model(state, frozen), batch, key)
        keys_B2 = jax.random.key_data(jax.random.split(jax.random.fold_in(key, 1), len(visible_BFV)))

        # Each device differentiates its own clips; gradients come back as means over all clips.
        statistics = state.get('statistics', {})
        loss, new_statistics, gradients = loss_and_gradients(
            state['params'], statistics, frozen, batch, visible_BFV, keys_B2
        )

        # The norm counts too: if it overflowed, clipping by it would turn all gradients into zeros.
        norm = optax.tree.norm(gradients)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params = jax.lax.with_sharding_constraint(state['params'], gradient_shardings)
        updates, opt_state = optimizer.update(gradients, state['opt_state'], params, norm=norm, is_finite=is_finite)
        in_a_row, in_total = nonfinite_steps(opt_state)
        metrics = {'loss': loss, 'grad_norm': norm, 'skipped_steps': in_total, 'skipped_in_a_row': in_a_row}
        params = optax.apply_updates(params, updates)

        state = state | {'step': state['step'] + 1, 'params': params, 'opt_state': opt_state}
        if 'ema' in state:
            decay = jnp.minimum(ema, (1 + state['step']) / (10 + state['step']))
            state['ema'] = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state['ema'], params)
        if statistics:  # a skipped step does not change them either
            state['statistics'] = jax.tree.map(functools.partial(jnp.where, in_a_row > 0), statistics, new_statistics)
        return state, metrics

    return train_step


def make_eval_step(
    graphdef: nnx.GraphDef,
    compared_losses: Callable[..., Any],
    abstract_params: dict[str, Any],
    gather: Gather | None = None,
) -> Callable[..., Any]:
    """eval_step(params, batch, key) -> (losses, Reconstruction), jitted: our loss beside the trivial predictors'.

    compared_losses: see `loss.compared_losses`. params are all parameters of the model, with frozen ones and
    statistics.
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


def _make_loss_and_gradients(
    graphdef, objective, abstract_state, gather, abstract_frozen, gradient_shardings, accumulate
):
    """(params, statistics, frozen, batch, visible_BFV, keys_B2) -> (loss, new statistics, gradients).

    The loss is a mean over all devices. Gradients lie as gradient_shardings say: parts of them, where the optimizer
    works on parts, even if the weights themselves are whole on every device.
    """
    weight_specs = _specs(abstract_state['params'])
    statistics_specs = _specs(abstract_state.get('statistics', {}))
    gradient_specs = jax.tree.map(lambda leaf: leaf.spec, gradient_shardings)

    @functools.partial(
        jax.shard_map,
        mesh=abstract_state['step'].sharding.mesh,
        in_specs=(weight_specs, statistics_specs, _specs(abstract_frozen), *(sharding.BATCH,) * 3),
        out_specs=(PartitionSpec(), PartitionSpec(), gradient_specs),
        check_vma=False,  # the sums over devices are written by hand, see sharding.py
    )
    def loss_and_gradients(params, statistics, frozen, batch, visible_BFV, keys_B2):
        def of_clips(statistics, clips):
            batch, visible_BFV, keys_B2 = clips

            def loss_of(params):
                model = _merge(graphdef, trainable.joined(params, statistics, frozen), gather)
                loss, out = objective(model, batch, visible_BFV, learning=TrainContext(keys_B2, sharding.AXES))
                return loss, out.statistics or {}  # () without batch norms

            (loss, statistics_after), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
            return statistics_after, (loss, gradients)

        clips = batch, visible_BFV, keys_B2
        if accumulate == 1:
            statistics, (loss, gradients) = of_clips(statistics, clips)
        else:
            statistics, (loss, gradients) = _mean_over_parts(of_clips, statistics, clips, accumulate)
        gradients = sharding.mean_gradients(gradients, weight_specs, gradient_specs)
        return sharding.mean(loss), statistics, gradients

    return loss_and_gradients


def _mean_over_parts(of_clips, statistics, clips, accumulate):
    """What of_clips(statistics, clips) gives, as means over so many equal parts of the clips, computed in turn.

    Statistics go from part to part; everything else is summed up in float32.
    """
    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), clips)
    _, shapes = jax.eval_shape(of_clips, statistics, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)

    def add(carry, part):
        statistics, total = carry
        statistics, found = of_clips(statistics, part)
        return (statistics, jax.tree.map(jnp.add, total, found)), None

    (statistics, total), _ = jax.lax.scan(add, (statistics, zeros), parts)
    return statistics, jax.tree.map(lambda x: x / accumulate, total)


def _specs(abstract):
    return jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)


def _merge(graphdef, params, gather):
    return nnx.merge(graphdef, params if gather is None else gather(params))


def _draw_visible(graphdef, params, batch, key):
    """The masks of all clips of a step, drawn together: a clip gets the same mask on whichever device it is."""
    return nnx.merge(graphdef, params).random_visible(key, batch['target_BFHWC'].shape)

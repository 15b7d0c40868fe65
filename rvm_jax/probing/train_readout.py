"""Trains a readout on frozen features and scores it, as every probe with a readout does."""

import dataclasses
from collections.abc import Callable, Container
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.errors import Diverged, UserError
from rvm_jax.probing import feature_batches
from rvm_jax.probing.interfaces import ReadoutTask
from rvm_jax.signals import StopRequest
from rvm_jax.training.checkpoint import Checkpoints

LOGGED = 50  # steps between points of a curve
SAVED = 2_000  # steps between checkpoints of a readout
NOTHING_DONE: dict[str, list] = {'curve': [], 'failed': []}
NEVER = StopRequest()  # for a caller that lets signals end the process


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a readout learns: AdamW, a linear warm-up from 0, then a cosine decay to end_lr.

    Published for the readouts of DIF (appendix E) and 4DS; RVM does not give its own. Weight decay applies to every
    parameter. Raises UserError if the warm-up is as long as the schedule.
    """

    steps: int = 40_000
    batch_size: int = 32
    peak_lr: float = 3e-4
    warmup: int = 1_000  # steps
    end_lr: float = 1e-7
    weight_decay: float = 1e-4

    def __post_init__(self):
        if self.warmup >= self.steps:
            reason = f'must be shorter than the schedule of {self.steps} steps'
            raise UserError(f'schedule.warmup={self.warmup}', reason, 'set schedule.warmup as well')

    def learning_rate(self) -> optax.Schedule:
        """A function from step to learning rate."""
        return optax.warmup_cosine_decay_schedule(0.0, self.peak_lr, self.warmup, self.steps, self.end_lr)

    def optimizer(self) -> optax.GradientTransformation:
        """The optax transformation."""
        return optax.adamw(self.learning_rate(), eps=1e-8, weight_decay=self.weight_decay)


def train_readout(
    task: ReadoutTask,
    data: Any,
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    stop: StopRequest = NEVER,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[nnx.Module, list[dict[str, float]]]:
    """Train the readout of a task: (the readout, its curve of losses [{'step', 'loss', ...}]).

    data is `feature_batches.Batches`, or has the same methods. The result depends only on the seed. With checkpoints,
    an interrupted readout resumes. stop is the StopRequest that this runs in. Raises Diverged if the loss is not
    finite, and Stopped on SIGTERM or Ctrl-C after saving.
    """
    mesh = feature_batches.make_mesh(schedule.batch_size)
    graphdef, state = _start(task, data, schedule, seed, mesh)
    train_step = _make_step(graphdef, task, schedule.optimizer())
    start, state, position = (checkpoints and checkpoints.restore(_abstract(state))) or (0, state, NOTHING_DONE)
    curve = list(position['curve'])
    data.failed.update(dict(position['failed']))
    drawn = data.training(batch_size=schedule.batch_size, steps=schedule.steps, start=start, seed=seed, mesh=mesh)
    for step, (features_BTMD, batch) in enumerate(drawn, start + 1):
        stop.current = f'step {step} of the readout, then saving and stopping'
        state, losses = train_step(state, features_BTMD, batch)
        is_last = step == schedule.steps
        if step % LOGGED == 0 or is_last:
            curve.append({'step': step, **{name: float(value) for name, value in losses.items()}})
            if not np.isfinite(curve[-1]['loss']):
                reason = f'the loss is not finite at step {step}'
                raise Diverged(f'schedule.peak_lr={schedule.peak_lr}', reason, 'lower it with --set')
            progress(step, curve[-1]['loss'])
        if checkpoints and (stop.requested or is_last or step % SAVED == 0):
            position = {'curve': curve, 'failed': sorted(data.failed.items())}
            save = checkpoints.save_now if stop.requested or is_last else checkpoints.save
            save(step, state, position)
        if not is_last:
            stop.check(f'readout saved at step {step}')
    return nnx.merge(graphdef, state['params']), curve


def evaluate_readout(
    task: ReadoutTask,
    data: Any,
    readout: nnx.Module,
    *,
    batch_size: int,
    shown: Container[int] = (),
    stop: StopRequest = NEVER,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, float], list[tuple[dict, dict]]]:
    """Scores {name: value} of a readout, and [(prediction, example), ...] of the examples with their number in shown.

    Raises Stopped on SIGTERM or Ctrl-C.
    """
    mesh = feature_batches.make_mesh(batch_size)
    graphdef, params = nnx.split(readout)

    @jax.jit
    def predict(params, features_BTMD, batch):
        return task.predict(nnx.merge(graphdef, params), features_BTMD, batch)

    measures: list[dict[str, Any]] = []
    kept: list[tuple[dict, dict]] = []
    for features_BTMD, batch, examples in data.evaluation(batch_size=batch_size, mesh=mesh):
        stop.current = 'a batch'
        found = jax.device_get(predict(params, features_BTMD, batch))
        for index, example in enumerate(examples):
            prediction = {name: array[index] for name, array in found.items()}
            if len(measures) in shown:
                kept.append((prediction, example))
            measures.append(task.measure(prediction, example))
        progress(len(measures))
        stop.check('the trained readout is saved')
    return task.scores(measures), kept


def _start(task, data, schedule, seed, mesh):
    """The structure of a new readout, and its parameters and optimizer state on every device."""
    graphdef, params = nnx.split(task.readout(data.width, data.num_frames, nnx.Rngs(seed)))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(nnx.to_pure_dict(params), everywhere)
    opt_state = jax.jit(schedule.optimizer().init, out_shardings=everywhere)(params)
    return graphdef, {'params': params, 'opt_state': opt_state}


def _make_step(graphdef, task, optimizer):
    @jax.jit
    def train_step(state, features_BTMD, batch):
        def objective(params):
            return task.loss(nnx.merge(graphdef, params), features_BTMD, batch)

        (loss, losses), grads = jax.value_and_grad(objective, has_aux=True)(state['params'])
        updates, opt_state = optimizer.update(grads, state['opt_state'], state['params'])
        state = {'params': optax.apply_updates(state['params'], updates), 'opt_state': opt_state}
        return state, losses | {'loss': loss}

    return train_step


def _abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)

"""Trains a readout on frozen features and scores it: what every probe with a readout does."""

import contextlib
import dataclasses

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.errors import Diverged
from rvm_jax.probing import batches
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.training.run_lock import run_lock
from rvm_jax.training.signals import StopRequest

LOGGED = 50  # steps between points of a curve
SAVED = 2_000  # steps between checkpoints of a readout


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a readout learns: AdamW, a linear warm-up from 0, a cosine to end_lr.

    Published for the readouts of DIF (its appendix E) and 4DS; RVM does not give its own. Weight decay pulls on every
    parameter. A schedule of few steps warms up for at most a tenth of them (ours).
    """

    steps: int = 40_000
    batch_size: int = 32
    peak_lr: float = 3e-4
    warmup: int = 1_000  # steps
    end_lr: float = 1e-7
    weight_decay: float = 1e-4

    def learning_rate(self):
        """Step -> learning rate."""
        warmup = min(self.warmup, self.steps // 10)
        return optax.warmup_cosine_decay_schedule(0.0, self.peak_lr, warmup, self.steps, self.end_lr)

    def optimizer(self):
        """The optax transformation."""
        return optax.adamw(self.learning_rate(), eps=1e-8, weight_decay=self.weight_decay)


def train_readout(task, data, schedule, *, seed, workdir=None, progress=lambda step, loss: None):
    """Train the readout of a task on `batches.Batches`: the readout, and its curve of losses.

    The curve is [{'step', 'loss', ...}]. Everything is a function of seed. In workdir, where given, checkpoints are
    kept: an interrupted readout goes on from there. Raises Diverged when the loss is no longer finite, and Stopped on
    SIGTERM or Ctrl-C once it is saved.
    """
    mesh = batches.make_mesh(schedule.batch_size)
    graphdef, state = _start(task, data, schedule, seed, mesh)
    train_step = _make_step(graphdef, task, schedule.optimizer())
    with contextlib.ExitStack() as stack:
        saves = stack.enter_context(_Saves(workdir)) if workdir is not None else None
        start, state, curve = saves.restore(state) if saves else (0, state, [])
        drawn = data.training(batch_size=schedule.batch_size, steps=schedule.steps, start=start, seed=seed, mesh=mesh)
        for step, (features_BTMD, batch) in enumerate(drawn, start + 1):
            state, losses = train_step(state, features_BTMD, batch)
            if step % LOGGED == 0 or step == schedule.steps:
                curve.append({'step': step, **{name: float(value) for name, value in losses.items()}})
                if not np.isfinite(curve[-1]['loss']):
                    raise Diverged('readout', f'its loss is not finite at step {step}', 'lower --learning-rate')
                progress(step, curve[-1]['loss'])
            if saves:
                saves.maybe(step, state, curve, is_last=step == schedule.steps)
    return nnx.merge(graphdef, state['params']), curve


def evaluate_readout(task, data, readout, *, batch_size, progress=lambda done: None):
    """Scores {name: value} of a readout, and its predictions and examples in order, videos left out."""
    mesh = batches.make_mesh(batch_size)
    graphdef, params = nnx.split(readout)

    @jax.jit
    def predict(params, features_BTMD, batch):
        return task.predict(nnx.merge(graphdef, params), features_BTMD, batch)

    predictions, examples = [], []
    for features_BTMD, batch, some in data.evaluation(batch_size=batch_size, mesh=mesh):
        found = jax.device_get(predict(params, features_BTMD, batch))
        predictions += [{name: array[index] for name, array in found.items()} for index in range(len(some))]
        examples += some
        progress(len(examples))
    return task.scores(predictions, examples), predictions, examples


def _start(task, data, schedule, seed, mesh):
    """A fresh readout's structure, and its parameters and optimizer state, on every device."""
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


class _Saves:
    """Checkpoints of a readout in a folder of its own, which is locked, and signals that ask to save and stop."""

    def __init__(self, workdir):
        self._workdir = workdir

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(run_lock(self._workdir))
            self._checkpoints = stack.enter_context(Checkpoints(self._workdir, keep=1))
            self._stop = stack.enter_context(StopRequest())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def restore(self, state):
        """(step, state, curve) to go on from, at first 0 and the given state."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        step, state, position = self._checkpoints.restore(abstract) or (0, state, {'curve': []})
        return step, state, position['curve']

    def maybe(self, step, state, curve, *, is_last):
        """Save if it is time to; raises Stopped if a signal came."""
        self._stop.step = step
        if self._stop.requested or is_last:
            self._checkpoints.save_now(step, state, {'curve': curve})
        elif step % SAVED == 0:
            self._checkpoints.save(step, state, {'curve': curve})
        if self._stop.requested and not is_last:
            self._stop.agree([self._stop.kind])
            raise self._stop.ended(step)

"""A train step to measure: the program of `rvm train`, or the same model computed as in the released code.

The method of the released code has our parameters, step and optimizer, but it repeats the source tokens for every
target frame, writes all attention scores to memory, keeps all activations, and inlines every layer.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from ml_collections import ConfigDict

from rvm_jax.conversion.frozen import resolve
from rvm_jax.models import build, cost, patches, trainable
from rvm_jax.models.decoder import flatten_time
from rvm_jax.models.rvm import RVM, Reconstruction, to_unit_range
from rvm_jax.planning import estimate
from rvm_jax.training import sharding, state
from rvm_jax.training.loss import objective_of
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.step import make_train_step

OURS, RELEASED = WAYS = 'ours', 'released'
DEFAULT_FLAGS = 'default_flags'  # ours, without the compiler options of state.py


class Run:
    """A compiled train step with its state and its times, on random clips and random weights (also frozen ones).

    config: a recipe; devices: those of its mesh, None for all; attention: used instead of the recipe's, except with the
    released method. `compile_seconds` includes loading, if a compilation cache has the program. `needs` is the bytes
    that the compiler asks for on one device: state, batch and temporary memory. `flops` are per clip, `seconds` per
    `step`.
    """

    def __init__(
        self,
        config: ConfigDict,
        way: str = OURS,
        devices: list[jax.Device] | None = None,
        attention: str | None = None,
    ):
        self.made, lowered, arguments = lower(config, way, devices, attention)
        self.state, self.batch, self.frozen_arrays = arguments
        started = time.perf_counter()
        self.train_step = lowered.compile()
        self.compile_seconds = time.perf_counter() - started
        memory = self.train_step.memory_analysis()
        self.needs = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self.trained, self.frozen = count(self.made.abstract_state['params']), count(self.made.abstract_frozen)
        self.optimizer = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state['opt_state']))
        self.flops = cost.train_flops(self.made.arch, **estimate.clip(config))
        self.clips, self.seconds = config.batch_size, []
        self.step()
        self.seconds.clear()

    def step(self) -> None:
        """Run one step, and wait for it."""
        started = time.perf_counter()
        check_loss(jax.block_until_ready(self.start()))
        self.seconds.append(time.perf_counter() - started)

    def pace(self, seconds: float, fewest: int = 3) -> np.ndarray:
        """Seconds of each step, for as many steps as fit into `seconds`, at least `fewest`.

        As in training, a step is started before the one before it is done, so that the device does not wait.
        """
        ahead, ended = self.start(), []
        while len(ended) < fewest + 1 or ended[-1] - ended[0] < seconds:
            ahead, done = self.start(), ahead
            check_loss(done)
            ended.append(time.perf_counter())
        check_loss(ahead)
        return np.diff(ended)

    def start(self) -> dict:
        """Start one step; returns its metrics, which are ready when it is done."""
        self.state, metrics = self.train_step(self.state, self.batch, self.frozen_arrays)
        return metrics

    def median(self) -> float:
        """Seconds per clip."""
        return float(np.median(self.seconds)) / self.clips


def check_loss(metrics: dict) -> None:
    """Wait for a step; end the program if its loss is not finite."""
    if not np.isfinite(metrics['loss']):
        raise SystemExit(f'the loss is {metrics["loss"]}')


def lower(config: ConfigDict, way: str = OURS, devices: list[jax.Device] | None = None, attention: str | None = None):
    """(Programs, the lowered train step, its arguments: state, batch, frozen parameters) of a recipe."""
    objective = objective_of(config.objective)
    if way == RELEASED:
        config, attention, objective = inlined(config), None, released_loss
    made = state.make_programs(config, resolve(config)[0], devices, attention)
    train_step = made.train_step if way == OURS else step_of(config, made, objective, attention)
    frozen_arrays = trainable.place(random_like(made.abstract_frozen), made.abstract_frozen)
    arguments = made.create(), sharding.place_batch(made.mesh, random_batch(config)), frozen_arrays
    return made, train_step.lower(*arguments), arguments


def inlined(config: ConfigDict) -> ConfigDict:
    """The recipe with plain attention, all activations kept, and every layer inlined."""
    config = config.copy_and_resolve_references()
    config.model.attention, config.model.remat, config.model.unroll = 'xla', 'none', 'true'
    return config


def step_of(config: ConfigDict, made: state.Programs, objective: Callable, attention: str | None):
    """The train step of a recipe on one device with another objective, compiled without compiler options."""
    execution = build.execution(config.model, sharding.platform(made.mesh))
    if attention is not None:
        execution = dataclasses.replace(execution, implementation=attention)
    graphdef, _ = nnx.split(build.abstract(made.arch, execution))
    optimizer = make_optimizer(config.optim, config.steps)
    return make_train_step(graphdef, optimizer, objective, made.abstract_state, abstract_frozen=made.abstract_frozen)


def released_loss(model: RVM, batch: dict, visible_BFV: jax.Array, learning=None):
    """The pixel loss with every target frame as its own clip, so that the source tokens are projected again for each.

    Equal to RVM.reconstruct up to the decoder, which gets the source tokens once for each target.
    """
    source_BTHWC, target_BFHWC, deltas_BF = (batch[name] for name in ('source_BTHWC', 'target_BFHWC', 'deltas_BF'))
    num_target, grid = deltas_BF.shape[1], patches.grid_size(*target_BFHWC.shape[2:4], patch_size=model.patch_size)
    target_BFHWC = to_unit_range(target_BFHWC)
    features_BTMD, _, statistics = model._features(source_BTHWC, None, learning)
    tokens_BFMD = model._target_tokens(target_BFHWC, visible_BFV)
    patches_BFNP, _ = model.decoder(
        *(rearrange(x, 'b f ... -> (b f) 1 ...') for x in (tokens_BFMD, visible_BFV, deltas_BF)),
        repeat(model.decoder.embed(flatten_time(features_BTMD)), 'b k e -> (b f) k e', f=num_target),
        grid[0] * grid[1],
    )
    true_BFNP = rearrange(patches.to_patches(target_BFHWC, model.patch_size), 'b f n p -> (b f) 1 n p')
    loss = jnp.square(patches_BFNP - true_BFNP).mean()
    return loss, Reconstruction(patches_BFNP, visible_BFV, features_BTMD, statistics=statistics)


def count(tree) -> int:
    """The number of values in a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def random_like(abstract):
    """Frozen weights of these shapes, float32 on the host."""
    rng = np.random.default_rng(0)

    def leaf(wanted):
        return 0.02 * rng.standard_normal(wanted.shape, np.float32)

    return jax.tree.map(leaf, abstract)


def random_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch of the recipe's shapes: noise."""
    rng, data, clips = np.random.default_rng(0), config.data, config.batch_size
    frame = (data.image_size, data.image_size, 3)
    return {
        'source_BTHWC': rng.integers(0, 256, (clips, data.num_source, *frame), np.uint8),
        'target_BFHWC': rng.integers(0, 256, (clips, data.num_target, *frame), np.uint8),
        'deltas_BF': rng.integers(7, 52, (clips, data.num_target), np.int32),
    }

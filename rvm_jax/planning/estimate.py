"""What a step of a recipe needs of each device, from shapes alone: memory by part, traffic, time on the wires.

Arithmetic beside cost.py, which has a clip's FLOPs and a block's activations. Nothing is compiled, no device touched.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from rvm_jax.models import build, cost, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.catalog import core_class
from rvm_jax.models.layer_shapes import frozen_parts
from rvm_jax.models.layers import Execution
from rvm_jax.planning import activations, chips
from rvm_jax.training import sharding
from rvm_jax.training.optimizer import make_optimizer


class Passes(NamedTuple):
    """How often bytes cross main memory in a step."""

    kept: float  # what differentiation could keep of a block: written, read by its consumer, read going back
    again: dict[str, float]  # remat -> the same, if some of it is computed again
    frozen: float  # what a frozen encoder writes: read by its consumer, and forgotten
    memory: float  # what Mamba carries, at every frame


# Fitted to what the compilers' programs move, see `traffic`.
PASSES = {
    'tpu': Passes(3, {'none': 0, 'dots': 1, 'full': 1}, 2, 28),
    'gpu': Passes(3, {'none': 0, 'dots': 0.15, 'full': 1}, 3.5, 28),
}
PASSES_OF_SCORES, RECOMPUTED_SCORES = 7, 2  # of plain attention: a softmax and its gradient; if computed again
STATE_PASSES = 8  # AdamW: weights, gradients and two moments read, three of them and the gradients written
PASSES_OF_SUM = 3  # adding up gradients: the sum and those of a part read, the sum written
# What travels between GPUs: whole weights are written; whole gradients written, made float32, and read.
PASSES_OF_GATHERED, PASSES_OF_SCATTERED = 1, 3


def clip(config: ConfigDict) -> dict[str, int]:
    """The sizes of a clip, as the functions of cost.py want them."""
    data = config.data
    return {'num_source': data.num_source, 'num_target': data.num_target, 'image_size': data.image_size}


def flops_by_part(config: ConfigDict, arch: Architecture) -> dict[str, float]:
    """{'encoder', 'core', 'decoder'}, and 'adapters' and 'target' where there are any: FLOPs of a clip in training."""
    flops = cost.train_flops_by_part(arch, **clip(config))
    light = flops.pop('encoder_target') if arch.target == 'light_target' else 0.0
    whole = {
        'encoder': sum(flops.pop(name) for name in list(flops) if name.startswith('encoder_')),
        'adapters': flops.pop('adapters'),
        'core': flops.pop('core'),
        'target': light,
        'decoder': sum(flops.values()),
    }
    return {part: count for part, count in whole.items() if count or part not in ('adapters', 'target')}


def execution_of(config: ConfigDict, platform: str) -> Execution:
    """The Execution of a config on 'gpu' or 'tpu', with attention 'xla' where no fused kernel takes its precision."""
    execution = build.execution(config.model, platform)
    precision = execution.precision
    is_fused = precision.block == jnp.bfloat16 and not precision.half_logits
    return execution if is_fused else dataclasses.replace(execution, implementation='xla')


def mesh_sizes(config: ConfigDict, devices: int, slices: int = 1) -> tuple[int, int]:
    """(data, fsdp) of a config on so many devices; raises UserError if they or the batch do not divide.

    slices: see `chips.slices`; weights are never split across them.
    """
    sizes = sharding.mesh_sizes(config.mesh, devices, slices)
    sharding.check_batch(devices, config.batch_size, config.accumulate)
    data, fsdp = sizes.values()
    return data, fsdp


def memory(config: ConfigDict, arch: Architecture, platform: str, devices: int, slices: int = 1) -> dict[str, float]:
    """Bytes on one device by part: 'weights', 'gradients', 'optimizer' (and the average of weights) as the mesh splits
    them, 'activations'.

    On an H100 within 15 % of the compiler's, see tests/planning/test_estimate.py, with remat 'dots'; on a CPU within
    1.3 times it. A TPU pads odd sizes and small head dims: there the compiler's need was 1.1 to 1.9 times this (v6e; S
    with fused attention the most).
    """
    sizes = mesh_sizes(config, devices, slices)
    execution = execution_of(config, platform)
    trained, statistics, held = trainable.split(cost.parameters(arch), arch)
    held = trainable.stored(held, execution.precision)
    opt_state = jax.eval_shape(make_optimizer(config.optim, config.steps).init, trained)
    gradients, others, optimizer = (
        _bytes_here(tree, AbstractMesh(sizes, ('data', 'fsdp')), config.mesh.sharded)
        for tree in ({'params': trained}, {'params': held, 'statistics': statistics}, {'opt_state': opt_state})
    )
    kept = activations.of_batch(arch, execution, config.batch_size // devices // config.accumulate, **clip(config))
    if config.ema:
        optimizer += _bytes_here({'ema': trained}, AbstractMesh(sizes, ('data', 'fsdp')), config.mesh.sharded)
    return {
        'weights': gradients + others,
        'gradients': gradients * (2 if config.accumulate > 1 else 1),  # the sum, and those of a part
        'optimizer': optimizer,
        'activations': kept,
    }


def traffic(config: ConfigDict, arch: Architecture, platform: str, devices: int, slices: int = 1) -> float:
    """Bytes that a step reads from and writes to one device's main memory; see the constants above.

    On H100s within 15 % of what is counted in compiled programs, see tests/planning/test_estimate.py.
    """
    execution = execution_of(config, platform)
    clips = config.batch_size // devices

    def kept(implementation):
        whole = dataclasses.replace(execution, remat='none', implementation=implementation)
        return clips * activations.kept_of_clip(arch, whole, **clip(config))

    passes, fused, again = PASSES[platform], kept('auto'), execution.remat != 'none'
    scores = kept('xla') - fused if execution.implementation == 'xla' else 0
    trained, held = weight_bytes(arch, execution)
    parts = memory(config, arch, platform, devices, slices)
    state = STATE_PASSES * parts['optimizer'] / 2 + config.accumulate * (2 + again) * trained
    if config.accumulate > 1:
        state += config.accumulate * PASSES_OF_SUM * parts['gradients'] / 2
    gathered, scattered = travelling(config, arch, devices, slices)
    between = PASSES_OF_GATHERED * gathered + PASSES_OF_SCATTERED * scattered if platform == 'gpu' else 0
    return (
        (passes.kept + passes.again[execution.remat]) * fused
        + (PASSES_OF_SCORES + RECOMPUTED_SCORES * again) * scores
        + passes.frozen * clips * activations.of_frozen_clip(arch, execution, **clip(config))
        + passes.memory * clips * activations.memories_of_clip(arch, **clip(config))
        + config.accumulate * len(frozen_parts(arch)) * held
        + state
        + between
    )


def weight_bytes(arch: Architecture, execution: Execution) -> tuple[int, int]:
    """Bytes of all weights that train, and of the frozen ones, as they are multiplied and travel: see
    `sharding.make_gather`.
    """
    trained, _, held = trainable.split(cost.parameters(arch), arch)
    precision = execution.precision
    half = precision.tokens == precision.block == jnp.bfloat16
    return cost.num_bytes(trained) // (2 if half else 1), cost.num_bytes(trainable.stored(held, precision))


def travelling(config: ConfigDict, arch: Architecture, devices: int, slices: int = 1) -> tuple[float, float]:
    """(bytes of weights gathered, bytes of gradients scattered) in a step where weights are split, (0, 0) elsewhere.

    Split weights are gathered forward and back and their gradients scattered, each time that a part is used: the
    encoder for source and for target frames, the core for every source frame if it takes one at a time. Frozen weights
    are gathered forward alone. With mesh.sharded=optimizer gradients are scattered and new weights gathered once.
    """
    if mesh_sizes(config, devices, slices)[1] == 1:
        return 0, 0
    execution = build.execution(config.model)
    trained, held = weight_bytes(arch, execution)
    counts = {part: cost.num_bytes(tree) for part, tree in trainable.split(cost.parameters(arch), arch)[0].items()}
    whole = sum(counts.values())
    if config.mesh.sharded != 'params':
        return whole, whole
    uses = {'encoder': 2 if arch.target == 'shared' else 1}
    uses['core'] = core_class(arch.core).shapes(arch, config.data.num_source, 1).passes // max(arch.core_layers, 1)
    scattered = sum(uses.get(part, 1) * size for part, size in counts.items())
    gathered = 2 * scattered * trained / whole + len(frozen_parts(arch)) * held
    return config.accumulate * gathered, config.accumulate * scattered


def link_seconds(config: ConfigDict, arch: Architecture, chip: chips.Chip, devices: int) -> float:
    """Seconds that a step's collectives take at the full rates of all of a chip's links, were nothing else to do.

    What is `travelling`, and what is left of each gradient, which is summed over 'data', within each slice before
    across them.
    """
    slices = chips.slices(chip, devices)
    data, fsdp = mesh_sizes(config, devices, slices)
    gathered, scattered = travelling(config, arch, devices, slices)
    near = data // slices
    part = cost.num_bytes(trainable.split(cost.parameters(arch), arch)[0]) / fsdp
    within = (gathered + scattered) * (1 - 1 / fsdp) + 2 * part * (1 - 1 / near)
    across = 2 * part / near * (1 - 1 / slices)
    return within / chip.link_rate + across / chip.network_rate


def _bytes_here(tree, mesh, sharded):
    """Bytes of one device's part of a train state's tree of shapes."""
    placed = sharding.state_shardings(mesh, tree, sharded)
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True)
    return sum(math.prod(split.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, split in leaves)

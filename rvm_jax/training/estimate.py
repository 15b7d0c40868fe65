"""What a step of a recipe needs of each device, from shapes alone: memory by part, traffic, time on the wires.

Arithmetic beside cost.py, which has a clip's FLOPs and a block's activations. Nothing is compiled, no device touched.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from rvm_jax.models import build
from rvm_jax.training import chips, cost, sharding
from rvm_jax.training.optimizer import make_optimizer

# How often what differentiation could keep of a block crosses main memory: written, read by its consumer, read going
# back; scores of attention besides: several passes of a softmax and of its gradient. Plus one more forward pass if some
# of it is computed again. Fitted to inlined steps of S and L with plain attention as the TPU compiler counts them; on
# seven programs for v6e (S, L, H; plain and fused; three remats) it was 18 % below to 11 % above.
PASSES, PASSES_OF_SCORES, RECOMPUTED, RECOMPUTED_SCORES = 3, 7, 1, 2
STATE_PASSES = 8  # AdamW: weights, gradients and two moments read, three of them and the gradients written


def clip(config):
    """The sizes of a clip, as the functions of cost.py want them."""
    data = config.data
    return {'num_source': data.num_source, 'num_target': data.num_target, 'image_size': data.image_size}


def flops_by_part(config):
    """{'encoder', 'core', 'decoder'}: FLOPs of a clip in training."""
    forward = cost.forward_flops(build.architecture(config.model, config.data), **clip(config))
    parts = {'encoder': ('patch_embed', 'encoder_source', 'encoder_target'), 'core': ('core',)}
    parts['decoder'] = [name for name in forward if name not in (*parts['encoder'], 'core')]
    return {part: 3.0 * sum(forward[name] for name in names) for part, names in parts.items()}


def execution_of(config, platform):
    """The Execution of a config on 'gpu' or 'tpu', with attention 'xla' where no fused kernel takes its precision."""
    execution = build.execution(config.model, platform)
    precision = execution.precision
    is_fused = precision.block == jnp.bfloat16 and not precision.half_logits
    return execution if is_fused else dataclasses.replace(execution, implementation='xla')


def mesh_sizes(config, devices, slices=1):
    """(data, fsdp) of a config on so many devices; raises UserError if they or the batch do not divide.

    slices: see `chips.slices`; weights are never split across them.
    """
    sizes = sharding.mesh_sizes(config.mesh, devices, slices)
    sharding.check_batch(devices, config.batch_size)
    return tuple(sizes.values())


def memory(config, platform, devices, slices=1):
    """Bytes on one device by part: 'weights', 'gradients', 'optimizer' as the mesh splits them, 'activations'.

    Within 1.3 times the compiler's on a CPU. A TPU pads odd sizes and small head dims: there the compiler's need was
    1.1 to 1.9 times this (v6e; S with fused attention the most).
    """
    sizes = mesh_sizes(config, devices, slices)
    arch, execution = build.architecture(config.model, config.data), execution_of(config, platform)
    params = _parameters(arch)
    state = {
        'params': params,
        'opt_state': jax.eval_shape(make_optimizer(config.optim, config.steps).init, params),
    }
    split = sharding.state_shardings(AbstractMesh(sizes, ('data', 'fsdp')), state, config.mesh.sharded)
    weights, optimizer = (_bytes_here(state[part], split[part]) for part in ('params', 'opt_state'))
    activations = cost.memory(arch, execution, config.batch_size // devices, **clip(config))['activations']
    return {'weights': weights, 'gradients': weights, 'optimizer': optimizer, 'activations': activations}


def traffic(config, platform, devices, slices=1):
    """Bytes that a step reads from and writes to one device's main memory; see the constants above."""
    arch, execution = build.architecture(config.model, config.data), execution_of(config, platform)

    def kept(implementation):
        whole = dataclasses.replace(execution, remat='none', implementation=implementation)
        return cost.memory(arch, whole, config.batch_size // devices, **clip(config))['activations']

    fused, again = kept('auto'), execution.remat != 'none'
    scores = kept('xla') - fused if execution.implementation == 'xla' else 0
    parts = memory(config, platform, devices, slices)
    state = STATE_PASSES * parts['optimizer'] / 2 + (2 + again) * weight_bytes(arch, execution)
    return (PASSES + RECOMPUTED * again) * fused + (PASSES_OF_SCORES + RECOMPUTED_SCORES * again) * scores + state


def weight_bytes(arch, execution):
    """Bytes of all weights as they are multiplied, and travel: see `sharding.make_gather`."""
    precision = execution.precision
    half = precision.tokens == precision.block == jnp.bfloat16
    return _count(_parameters(arch)) * (2 if half else 4)


def link_seconds(config, chip, devices):
    """Seconds that a step's collectives take at the full rates of all of a chip's links, were nothing else to do.

    Split weights are gathered forward and back and their gradients scattered, each time that a part is used: the
    encoder for source and for target frames, the core for every source frame. What is left of each gradient is summed
    over 'data', within each slice before across them. With mesh.sharded=optimizer gradients are scattered and new
    weights gathered once.
    """
    slices = chips.slices(chip, devices)
    data, fsdp = mesh_sizes(config, devices, slices)
    arch, execution = build.architecture(config.model, config.data), build.execution(config.model)
    whole = 4 * _count(_parameters(arch))
    scattered = gathered = whole
    if config.mesh.sharded == 'params':
        uses = {'encoder': 2, 'core': config.data.num_source, 'decoder': 1}
        scattered = 4 * sum(uses[part] * _count(tree) for part, tree in _parameters(arch).items())
        gathered = 2 * scattered * weight_bytes(arch, execution) / whole
    near, part = data // slices, whole / fsdp
    within = (gathered + scattered) * (1 - 1 / fsdp) + 2 * part * (1 - 1 / near)
    across = 2 * part / near * (1 - 1 / slices)
    return within / chip.link_rate + across / chip.network_rate


@functools.cache
def _parameters(arch):
    return nnx.to_pure_dict(nnx.state(build.abstract(arch)))


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes_here(tree, shardings):
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(split.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, split in leaves)

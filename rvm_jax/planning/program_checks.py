"""What a compiled train step must not do on an accelerator, read from its program: pure functions of a `hlo.Program`.

Each check gives sentences about what it found, none if all is well. What they look for makes a step slow, or too large,
and shows in no test of values: attention that is not fused, or runs again going back; weights and gradients that are
whole where each device should hold a part.
"""

import itertools
import math
import re
from collections import Counter
from typing import NamedTuple

import jax
import ml_collections
from flax import traverse_util

from rvm_jax.models import cost, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.attention import LONG_KEYS
from rvm_jax.models.block_shapes import Attention
from rvm_jax.models.layer_shapes import blocks, frozen_parts
from rvm_jax.models.param_names import STACK
from rvm_jax.planning import estimate, hlo
from rvm_jax.planning.hlo import ARRAY
from rvm_jax.training import sharding

LONGER = 1.05  # memory and traffic may be this many times what was recorded
WAITING = 1.0  # times all gradients may wait in full size to be scattered; what is used twice has them twice
PADDED = 128  # lengths from here on may be padded to a multiple of 8
MADE_ELSEWHERE = ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call', 'conditional')
CUDNN = re.compile(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"')
PALLAS = 'custom_call_target="tpu_custom_call"'


class Calls(NamedTuple):
    """How often a step runs a fused attention forward and backward."""

    forward: int
    backward: int


class Split(NamedTuple):
    """What the mesh splits: shapes of whole stacked kernels; bytes of gradients that are summed in full size, and of
    those that are split, were they whole.
    """

    stacks: dict[str, tuple[int, ...]]
    summed: int
    whole: int


def fused_attentions(
    config: ml_collections.ConfigDict, arch: Architecture, platform: str
) -> list[tuple[int, bool, Attention]]:
    """(passes of a clip, whether it trains, Attention) of all that a fused kernel should take on 'gpu' or 'tpu'.

    All but few keys on a TPU, where our kernel does not pay, and the aggregator's one query; none without bf16.
    """
    if estimate.execution_of(config, platform).implementation == 'xla':
        return []
    held = frozen_parts(arch)
    return [
        (one.passes, part not in held, attention)
        for part, one in blocks(arch, **estimate.clip(config)).items()
        for attention in one.attentions
        if part != 'aggregator' and one.passes and (platform == 'gpu' or attention.keys >= LONG_KEYS)
    ]


def needed_calls(attentions: list[tuple[int, bool, Attention]]) -> Calls:
    """The Calls of a step that computes no attention twice; attentions as of `fused_attentions`."""
    return Calls(
        sum(passes for passes, _, _ in attentions), sum(passes for passes, is_trained, _ in attentions if is_trained)
    )


def attention_calls(program: hlo.Program, times: dict[str, int]) -> Calls:
    """Calls of cuDNN's kernels, or of ours for TPUs, of which the backward one gives three gradients."""
    forward = backward = 0
    for name, count in times.items():
        for instruction in program.computations[name].values():
            if instruction.opcode != 'custom-call':
                continue
            if found := CUDNN.search(instruction.attributes):
                is_backward = bool(found[1])
            elif PALLAS in instruction.attributes:
                is_backward = len(hlo.top_level(instruction.shape)) == 3
            else:
                continue
            forward, backward = forward + count * (not is_backward), backward + count * is_backward
    return Calls(forward, backward)


def check_calls(found: Calls, needed: Calls) -> list[str]:
    """Attention that runs again in the backward pass, or without a fused kernel."""
    said = []
    if found.forward > needed.forward:
        said.append(f'attention runs again going back: {found.forward} forward calls, {needed.forward} are needed')
    if found.forward < needed.forward or found.backward < needed.backward:
        said.append(
            f'attention is not fused everywhere: {found.forward} and {found.backward} calls forward and backward of '
            f'{needed.forward} and {needed.backward}'
        )
    return said


def scores_in_memory(
    program: hlo.Program, times: dict[str, int], attentions: list[tuple[int, bool, Attention]]
) -> list[str]:
    """Arrays of queries x keys of one of the attentions that cross main memory."""
    sizes = {(one.queries, one.keys) for _, _, one in attentions}
    found: dict[str, str] = {}
    for instruction, (dtype, dims) in _arrays(program, times):
        if any(_holds(dims, queries, keys) for queries, keys in sizes):
            found.setdefault(f'{dtype}[{",".join(map(str, dims))}]', instruction.name)
    return [f'attention scores reach main memory: {shape}, made by {name}' for shape, name in sorted(found.items())]


def split_of(config: ml_collections.ConfigDict, arch: Architecture, devices: int, slices: int = 1) -> Split:
    """The Split of a config on so many devices; without mesh.fsdp nothing is."""
    data, fsdp = estimate.mesh_sizes(config, devices, slices)
    parameters = cost.parameters(arch)
    trained = traverse_util.flatten_dict(trainable.split(parameters, arch)[0], sep='/')
    stacks, summed, whole = {}, 0, 0
    for name, leaf in trained.items():
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        path = tuple(jax.tree_util.DictKey(part) for part in name.split('/'))
        if fsdp == 1 or 'fsdp' not in sharding.partition(path, leaf.shape):
            summed += size
            continue
        summed += size // fsdp if data > 1 else 0
        whole += size
        if STACK in name:
            stacks[name] = leaf.shape
    return Split(stacks, summed, whole)


def whole_weights(program: hlo.Program, times: dict[str, int], split: Split) -> list[str]:
    """Arrays as large as a whole stack of kernels, or its gradient, of which each device should hold a part."""
    wanted: dict[tuple[int, ...], str] = {}
    for name, shape in split.stacks.items():
        for one in (shape, _merged(name, shape)):
            wanted.setdefault(_key(one), name)
    found: dict[str, str] = {}
    for instruction, (dtype, dims) in _arrays(program, times):
        if whole := wanted.get(_key(dims)):
            found.setdefault(whole, f'{dtype}[{",".join(map(str, dims))}], made by {instruction.name}')
    return [f'the whole of {name} is in memory: {what}' for name, what in found.items()]


def whole_gradients(program: hlo.Program, times: dict[str, int], devices: int, split: Split) -> list[str]:
    """Gradients that are summed in full size on every device, of which each should get its part alone."""
    if not split.stacks:
        return []
    found = hlo.collectives(program, times, devices)
    size = sum(one.times * one.size for one in found if one.kind == 'all-reduce')
    if size <= LONGER * split.summed:
        return []
    return [f'{size / 1e9:.2f} GB of gradients are summed whole; parts and small ones are {split.summed / 1e9:.2f}']


def waiting_gradients(program: hlo.Program, times: dict[str, int], split: Split) -> list[str]:
    """Gradients that wait in full size to be scattered until most of them are there; read from the program's order."""
    most = 0
    for name in times:
        order = {instruction: index for index, instruction in enumerate(program.computations[name])}
        changes = Counter[int]()
        for instruction in program.computations[name].values():
            if instruction.opcode.removesuffix('-start') == 'reduce-scatter':
                for operand in instruction.operands:
                    size = hlo.num_bytes(program.computations[name][operand].shape)
                    changes[order[_maker(program.computations[name], operand)]] += size
                    changes[order[instruction.name]] -= size
        waiting = itertools.accumulate(changes[index] for index in sorted(changes))
        most = max([most, *waiting])
    if not split.stacks or most <= WAITING * split.whole:
        return []
    return [f'{most / 1e9:.2f} GB of whole gradients wait to be scattered, of {split.whole / 1e9:.2f} in all']


def _maker(computation, name):
    """The instruction that an array comes from, behind what only gives it another name or shape."""
    while computation[name].opcode in ('bitcast', 'get-tuple-element'):
        name = computation[name].operands[0]
    return name


def grown(name: str, found: float, recorded: float | None, unit: str) -> list[str]:
    """That a figure is more than 5 % above the recorded one; a figure that is not recorded (None) is a finding, too."""
    if recorded is None:
        return [f'{name} {found:.2f} {unit} is not recorded yet']
    if found <= LONGER * recorded:
        return []
    return [f'{name} {found:.2f} {unit}, {found / recorded - 1:.0%} above the recorded {recorded:.2f}']


def _arrays(program, times):
    """(instruction, (dtype, sizes)) of every array that an instruction of the main program writes to main memory."""
    for name in times:
        for instruction in program.computations[name].values():
            if instruction.opcode in MADE_ELSEWHERE:
                continue
            for dtype, sizes, layout in ARRAY.findall(instruction.shape):
                if not re.search(r'S\([1-9]', layout):
                    yield instruction, (dtype, tuple(int(size) for size in sizes.split(',') if size))


def _holds(dims, queries, keys):
    """Whether two different axes of an array are as long as queries and keys."""
    firsts = [axis for axis, size in enumerate(dims) if size in _lengths(queries)]
    return any(size in _lengths(keys) and any(first != axis for first in firsts) for axis, size in enumerate(dims))


def _lengths(length):
    return (length, -(-length // 8) * 8) if length >= PADDED else (length,)


def _merged(name, shape):
    """Shape of a stacked kernel with heads and their channels as one axis: (layers, inputs, outputs)."""
    layers, *sizes = shape
    if len(sizes) == 3:
        sizes = [math.prod(sizes[:2]), sizes[2]] if name.endswith('out/kernel') else [sizes[0], math.prod(sizes[1:])]
    return (layers, *sizes)


def _key(dims):
    return tuple(sorted(size for size in dims if size > 1))

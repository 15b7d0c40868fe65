"""The text of a compiled XLA program, read as data: which computation runs how often, what is gathered and reduced.

The compiler's own totals count the body of a loop once, however often it runs; here a body counts as often as its loop
says: by `known_trip_count` where the compiler writes it (CPU, GPU), else by the constant that the loop's condition
compares with (TPU), which for a `jax.lax.scan` is its length.
"""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

# Bytes an element; narrower than a byte counts as one.
ITEM_SIZES = {'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8,
              'c64': 8, 'c128': 16, 'token': 0}  # fmt: skip
COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'collective-permute', 'all-to-all')
ARRAY = re.compile(r'\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')


class Instruction(NamedTuple):
    """`name = shape opcode(operands), attributes`; operands are names of the same computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    inside: str  # of the operands' brackets, as written: the value of a constant, the number of a parameter
    attributes: str
    is_root: bool


class Program(NamedTuple):
    """computations: name -> {instruction name: Instruction}, in order; entry: where it begins."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


class Collective(NamedTuple):
    """A collective operation of one device: `size` bytes of the whole array, `group` devices on so many slices (for
    GPUs hosts), run `times` times.
    """

    kind: str
    size: int
    group: int
    times: int
    slices: int = 1

    @property
    def moved(self) -> float:
        """Bytes that a device must at least receive from its own slice in all runs: a reduction gathers once more than
        it scatters.
        """
        if self.kind == 'collective-permute':
            return self.times * self.size if self.slices == 1 else 0
        return self._passes * self.times * self.size * (1 - self.slices / self.group)

    @property
    def crossing(self) -> float:
        """Bytes that it must receive from other slices, where each device of a slice fetches its part of the array."""
        if self.kind == 'collective-permute':
            return self.times * self.size if self.slices > 1 else 0
        return self._passes * self.times * self.size * self.slices / self.group * (1 - 1 / self.slices)

    @property
    def _passes(self):
        return 2 if self.kind == 'all-reduce' else 1


def parse(text: str) -> Program:
    """A Program from the text of an HLO module, as `compiled.as_text()` gives it."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = '', None
    for line in text.splitlines():
        if line.endswith('{') and line[:1] not in (' ', '') and not line.startswith('HloModule'):
            name = re.findall(r'[\w.\-]+', line.removeprefix('ENTRY '))[0]
            current = computations[name] = {}
            entry = name if line.startswith('ENTRY') else entry
        elif current is not None and line.startswith('  ') and (found := _instruction(line)):
            current[found.name] = found
    return Program(computations, entry)


def runs(program: Program) -> tuple[dict[str, int], list[str]]:
    """({computation: how often it runs}, loops whose length cannot be read and count once).

    Only computations that control reaches are in it: what is fused into one instruction runs with that instruction. Of
    a conditional's branches one runs: the dearest, by the bytes that its instructions make.
    """
    times, unknown = _runs_from(program, program.entry)
    return dict(times), unknown


def _runs_from(program, name):
    """The same of one computation that runs once."""
    times, unknown = Counter({name: 1}), list[str]()
    for instruction in program.computations[name].values():
        for called, count in _bodies(program, instruction, unknown):
            nested, more = _runs_from(program, called)
            times.update({inner: count * often for inner, often in nested.items()})
            unknown += more
    return times, unknown


def _bodies(program, instruction, unknown):
    """[(computation, how often it runs)] of what an instruction hands control to; notes a loop of unknown length."""
    if instruction.opcode == 'while':
        length = _trip_count(program, instruction)
        if length is None:
            unknown.append(instruction.name)
        return [(_called(instruction, 'body')[0], length or 1)]
    if instruction.opcode == 'conditional':
        branches = _called(instruction, 'branch_computations', 'true_computation', 'false_computation')
        return [(max(branches, key=lambda branch: _bytes_made(program, branch)), 1)]
    if instruction.opcode in ('call', 'async-start'):
        return [(called, 1) for called in _called(instruction, 'to_apply', 'calls')]
    return []


def _bytes_made(program, name):
    times, _ = _runs_from(program, name)
    return sum(
        count * num_bytes(instruction.shape)
        for inner, count in times.items()
        for instruction in program.computations[inner].values()
        if instruction.opcode not in ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'constant')
    )


def collectives(program: Program, times: dict[str, int], devices: int, slices: int = 1) -> list[Collective]:
    """Every Collective of a program, in order of appearance; those over one device are left out.

    devices: how many there are, for a group that is all of them; slices: how many they come in, equal runs of the
    program's devices. What a TPU writes as a fused reduction of which each device keeps its part is a reduce-scatter.
    """
    found = []
    for name, count in times.items():
        for instruction in program.computations[name].values():
            for kind, size, group in _collectives_of(program, program.computations[name], instruction, devices):
                crossed = len({device * slices // devices for device in group})
                found.append(Collective(kind, size, len(group), count, crossed))
    return [collective for collective in found if collective.group > 1]


def num_bytes(shape: str) -> int:
    """Bytes of a shape as HLO writes it, tuples included, without padding."""
    return sum(
        math.prod(int(size) for size in sizes.split(',') if size) * ITEM_SIZES.get(dtype, 1)
        for dtype, sizes, _ in ARRAY.findall(shape)
    )


def top_level(shape: str) -> list[str]:
    """The shapes that a tuple's shape consists of; of an array's, itself alone."""
    if not shape.startswith('('):
        return [shape]
    parts, depth, start = [], 0, 1
    for match in re.finditer(r'[()\[\]{},]', shape):
        depth += match[0] in '([{'
        depth -= match[0] in ')]}'
        if (match[0] == ',' and depth == 1) or depth == 0:
            parts.append(shape[start : match.start()].strip())
            start = match.end()
    return parts


def fused(program: Program, instruction: Instruction) -> Any:
    """The computation inside a fusion; None for any other instruction."""
    return program.computations[_called(instruction, 'calls')[0]] if instruction.opcode == 'fusion' else None


def _instruction(line):
    head = re.match(r'  (ROOT )?%?([\w.\-]+) = ', line)
    if head is None:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == '(' else line.index(' ', start)
    shape, rest = line[start:end], line[end:].lstrip()
    bracket = rest.index('(')
    close = _closing(rest, bracket)
    inside = rest[bracket + 1 : close]
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    return Instruction(head[2], shape, rest[:bracket], operands, inside, rest[close + 1 :], bool(head[1]))


def _closing(text, start):
    """Where the bracket that opens at start closes."""
    depth = 0
    for match in re.finditer(r'[()]', text[start:]):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return start + match.start()
    raise ValueError(f'no closing bracket in {text[:80]}')


def _called(instruction, *keys):
    names = []
    for key in keys:
        for one, many in re.findall(rf'\b{key}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})', instruction.attributes):
            names += [one] if one else re.findall(r'%?([\w.\-]+)', many)
    return names


def _trip_count(program, loop):
    stated = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if stated:
        return int(stated[1])
    condition = program.computations[_called(loop, 'condition')[0]]
    root = next(found for found in condition.values() if found.is_root)
    bounds = [condition[name] for name in root.operands if condition[name].opcode == 'constant']
    is_count = root.opcode == 'compare' and 'direction=LT' in root.attributes and len(bounds) == 1
    is_whole = is_count and bounds[0].shape.startswith(('s', 'u')) and bounds[0].inside.isdigit()
    return int(bounds[0].inside) if is_whole else None


def _collectives_of(program, computation, instruction, devices):
    """(kind, bytes of the whole array, devices of the first group) of what an instruction is or holds."""
    if instruction.opcode == 'fusion':
        inside = fused(program, instruction)
        called = _called(instruction, 'calls')[0]
        nested = [found for one in inside.values() for found in _collectives_of(program, inside, one, devices)]
        is_scatter = 'all-reduce-scatter' in called or 'reduce-scatter' in called
        return [('reduce-scatter', *found[1:]) if is_scatter else found for found in nested]
    kind = instruction.opcode.removesuffix('-start')
    if kind not in COLLECTIVES:
        return []
    group = _group(instruction.attributes, devices) if kind != 'collective-permute' else range(devices)
    size = sum(num_bytes(computation[name].shape) for name in instruction.operands)
    return [(kind, size * len(group) if kind == 'all-gather' else size, group)]


def _group(attributes, devices):
    """Devices of the first group, from one of the three ways to write replica_groups."""
    if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', attributes):
        return [int(device) for device in listed[1].split(',')]
    if counted := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes):
        shape = [int(size) for size in counted[3].split(',')]
        axes = [int(axis) for axis in counted[4].split(',')] if counted[4] else None
        ordered = np.arange(math.prod(shape)).reshape(shape).transpose(axes)
        return ordered.reshape(int(counted[1]), int(counted[2]))[0].tolist()
    if named := re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        chosen = re.findall(r"'([^']+)'", named[2])
        placed = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
        return placed[tuple(slice(None) if axis in chosen else 0 for axis in sizes)].ravel().tolist()
    return list(range(devices))

"""Bytes that a compiled XLA program reads from and writes to a device's main memory, estimated from its text.

An instruction that control reaches reads its operands and writes its result once; what is fused into it stays in
registers. Of an array that is only sliced, the slices count, of one that is updated in place, the update. On a TPU,
arrays count with the padding of their tiles, `T(8,128)` in their layout, and those that the compiler placed beside the
core, `S(1)`, not at all. Each loop's body counts as often as the loop runs, which the compiler's own 'bytes accessed'
does not: with loops counted once, this is within 10 % of that count on the four programs tried (S and H on v6e, plain
attention, scanned, inlined, split).

Not seen: what a kernel of our own, or a matrix product too large for the fast memory, reads twice; what cuBLAS writes
into its workspace (4 MB are at hand for each call, few use them); and cuDNN's workspace, where fused attention adds up
gradients of queries: without a GPU the compiler leaves its size at `u8[0]`, with one it counts as written once.
"""

import math
import re

from rvm_jax.planning.hlo import ARRAY, ITEM_SIZES, Program, fused, top_level

CUBLAS = 'custom_call_target="__cublas'
FREE = frozenset(('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
                  'after-all', 'partition-id', 'replica-id', 'opt-barrier', 'iota', 'async-start'))  # fmt: skip
SLICES = ('dynamic-slice', 'slice', 'gather')
WHOLE = ('all-reduce-start',)  # gives its result alone, without its operands
WORKSPACE = re.compile(r', (s8\[\d+\](?:\{[^}]*\})?)\)$')  # the last that a call of cuBLAS gives


def traffic(program: Program, times: dict[str, int]) -> int:
    """Bytes in all, every computation as often as times says (see `hlo.runs`)."""
    return sum(
        count * _moved(program, program.computations[name], instruction)
        for name, count in times.items()
        for instruction in program.computations[name].values()
    )


def _moved(program, computation, instruction):
    is_room = instruction.opcode == 'custom-call' and '"AllocateBuffer"' in instruction.attributes
    if is_room or instruction.opcode in FREE or instruction.opcode.endswith('-done'):
        return 0
    sizes = [memory_bytes(computation[name].shape) for name in instruction.operands]
    if instruction.opcode.endswith('-start') and instruction.opcode not in WHOLE:
        return sum(sizes) + memory_bytes(_begun(instruction))
    if instruction.opcode in SLICES:
        return 2 * memory_bytes(instruction.shape)
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * sizes[1]
    inside = fused(program, instruction)
    if inside is None:
        workspace = WORKSPACE.search(instruction.shape) if CUBLAS in instruction.attributes else None
        return memory_bytes(instruction.shape) + sum(sizes) - (memory_bytes(workspace[1]) if workspace else 0)
    reads = zip(instruction.operands, sizes, _parameters(inside), strict=True)
    return _written(program, inside, instruction.shape) + sum(
        min(size, _read(program, inside, parameter)) for _, size, parameter in reads if size
    )


def _begun(instruction):
    """The shape of the result of what runs beside other work; HLO writes it in a tuple with the operands' shapes."""
    parts = top_level(instruction.shape)
    return parts[0] if instruction.opcode == 'copy-start' else parts[1]


def memory_bytes(shape: str) -> int:
    """Bytes of a shape in main memory: its arrays as their layout pads them, without those that lie elsewhere."""
    return sum(_padded(*array) for array in ARRAY.findall(shape) if not re.search(r'S\([1-9]', array[2]))


def _padded(dtype, sizes, layout):
    """dtype and sizes of an array, and its layout: its axes from minor to major, then after 'T' the shape of a tile."""
    sizes = [int(size) for size in sizes.split(',') if size]
    order, _, tiles = layout.partition(':')
    if sizes and (tile := re.match(r'T\(([\d,]+)\)', tiles)):
        sizes = [sizes[int(axis)] for axis in order.split(',')]  # from minor to major
        for position, tile_size in enumerate(reversed(tile[1].split(','))):
            if position < len(sizes):
                sizes[position] = math.ceil(sizes[position] / int(tile_size)) * int(tile_size)
    return math.prod(sizes) * ITEM_SIZES.get(dtype, 1)


def _parameters(computation):
    found = [instruction for instruction in computation.values() if instruction.opcode == 'parameter']
    return [instruction.name for instruction in sorted(found, key=lambda instruction: int(instruction.inside))]


def _read(program, computation, name):
    """Bytes of the array `name` that a fused computation looks at, slices alone if nobody wants the whole."""
    total, whole = 0, memory_bytes(computation[name].shape)
    for user in computation.values():
        if name not in user.operands:
            continue
        if user.opcode in SLICES and user.operands[0] == name:
            total += memory_bytes(user.shape)
        elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
            continue  # updated in place
        elif user.opcode == 'bitcast':
            total += _read(program, computation, user.name)
        elif inside := fused(program, user):
            parameters = _parameters(inside)
            total += sum(_read(program, inside, p) for p, o in zip(parameters, user.operands, strict=True) if o == name)
        else:
            return whole
    return min(total, whole)


def _written(program, computation, shape):
    """Bytes that a fused computation writes: its result, or the update alone where it is one in place."""
    root = next(instruction for instruction in computation.values() if instruction.is_root)
    if not memory_bytes(shape):
        return 0
    parts = [computation[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    total = 0
    for part in parts:
        while part.opcode == 'bitcast':
            part = computation[part.operands[0]]
        if part.opcode == 'dynamic-update-slice':
            total += memory_bytes(computation[part.operands[1]].shape)
        elif inside := fused(program, part):
            total += _written(program, inside, part.shape)
        else:
            total += memory_bytes(part.shape)
    return min(total, memory_bytes(shape))

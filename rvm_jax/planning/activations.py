"""What a train step keeps of a clip until it is differentiated, in bytes: an estimate from shapes.

Within 1.3 times the compiler's on small models; with remat 'none' up to 1.4 times it, as the rules of the GELU and of
norms keep less than is counted here. For a GPU and remat 'dots' see `of_batch`.
"""

import jax.numpy as jnp

from rvm_jax.models.architecture import Architecture
from rvm_jax.models.block_shapes import Blocks
from rvm_jax.models.cores.selective_scan import AT_ONCE
from rvm_jax.models.layer_shapes import blocks, frozen_parts
from rvm_jax.models.layers import Execution

# Fitted to the programs of benchmarks/accelerators.json for H100s: what is live at most, beside what is kept.
KEPT_ON_GPU = 1.12
RECURRENCE_ON_GPU = 0.5  # of the arrays of one Mamba layer


def of_batch(arch: Architecture, execution: Execution, clips: int, **sizes: int) -> float:
    """Bytes that so many clips take at most: what is kept of them, and all of the one layer that is worked on, as one
    that is recomputed or one of a frozen encoder.

    On a GPU with remat 'dots', where layers are inlined, a layer that is worked on takes the room of what has been used
    already: there it is what is kept and a fitted share, see above.

    sizes: num_source, num_target, image_size. A frozen encoder keeps nothing. Attention scores count for
    implementation 'xla' alone: the others never write them out, and 'auto' is taken to find one of those. Copies that
    a compiler adds are not counted.
    """
    found = _found(arch, sizes)
    waiting = clips * kept_of_clip(arch, execution, **sizes)
    if execution.platform == 'gpu' and execution.remat == 'dots' and execution.implementation != 'xla':
        mamba = (RECURRENCE_ON_GPU * clips * _recurrence(one, execution) + _group(one, clips) for one in found.values())
        return KEPT_ON_GPU * waiting + max(mamba, default=0)
    at_work = {}
    for part, one in found.items():
        is_kept = execution.remat == 'none' and part not in frozen_parts(arch)
        size_of = forward if part in frozen_parts(arch) else saved_bytes
        at_work[part] = (0 if is_kept else clips * size_of(one, execution)) + _group(one, clips)
    if 'aggregator' in at_work:  # recomputed with the adapters
        at_work['adapters'] += at_work.pop('aggregator')
    return waiting + max(at_work.values(), default=0)


def kept_of_clip(arch: Architecture, execution: Execution, *, num_source: int, num_target: int, image_size: int) -> int:
    """Bytes that wait for the backward pass: what it reads of every block that trains under the remat policy, and
    frames as float32 pixels and patches.
    """
    sizes = {'num_source': num_source, 'num_target': num_target, 'image_size': image_size}
    found = {part: one for part, one in _found(arch, sizes).items() if part not in frozen_parts(arch)}
    size_of = saved_bytes if execution.remat == 'none' else remat_bytes
    size = 2 * (num_source + 2 * num_target) * 3 * image_size**2 * 4
    if 'adapters' in found and execution.remat != 'none':
        size += 2 * found['adapters'].tokens * arch.width * 4  # their norm is outside of what is recomputed
    return size + sum(one.passes * size_of(one, execution) for one in found.values())


def of_frozen_clip(arch: Architecture, execution: Execution, **sizes: int) -> int:
    """Bytes that the frozen encoder writes for one clip, block after block."""
    found = _found(arch, sizes)
    return sum(found[part].passes * forward(found[part], execution) for part in frozen_parts(arch))


def memories_of_clip(arch: Architecture, **sizes: int) -> int:
    """Bytes of what Mamba carries from frame to frame, of all frames and layers together; 0 for another core."""
    found = [one for one in _found(arch, sizes).values() if one.recurrence]
    return sum(one.passes * one.tokens * _memory_of_token(one.recurrence) for one in found)


def _found(arch, sizes):
    return {part: one for part, one in blocks(arch, **sizes).items() if one.passes}


def saved_bytes(part: Blocks, execution: Execution) -> int:
    """All that differentiation keeps of a block: per norm three float32 arrays and its output; queries, keys, values
    and the attention's output; six arrays of the MLP's width, from the GELU; scores and weights with 'xla'. Of Mamba:
    see `_recurrence`.
    """
    item = jnp.dtype(execution.precision.block).itemsize
    num_norms = len(part.attentions) + 1 + bool(part.recurrence and part.attentions)
    size = num_norms * part.tokens * part.width * (3 * 4 + item)
    size += item * (_attention_values(part) + 6 * part.tokens * part.mlp)
    return size + _scores(part, execution) + _recurrence(part, execution)


def remat_bytes(part: Blocks, execution: Execution) -> int:
    """What remat keeps of a block: its input, and with 'dots' also the products with parameters."""
    size = part.tokens * part.width * jnp.dtype(execution.precision.tokens).itemsize
    if execution.remat == 'dots':
        products = _attention_values(part) + part.tokens * part.mlp
        if part.recurrence:
            products += 4 * part.tokens * part.recurrence.channels
        size += products * jnp.dtype(execution.precision.block).itemsize
    return size


def forward(part: Blocks, execution: Execution) -> int:
    """What a block that is not differentiated writes: outputs of its norms and halves, queries, keys, values and the
    attention's output, the MLP's hidden layer, queries and keys twice more in float32 with RoPE, but not on a GPU,
    where it is part of other programs; scores with 'xla'.
    """
    precision = execution.precision
    item, stream = (jnp.dtype(dtype).itemsize for dtype in (precision.block, precision.tokens))
    hidden = (1 + part.is_gated) * part.tokens * part.mlp
    size = 2 * part.tokens * part.width * (item + stream) + item * (_attention_values(part) + hidden)
    if part.is_rotated and execution.platform != 'gpu':
        size += 4 * 4 * part.tokens * part.width
    return size + _scores(part, execution)


def _scores(part, execution):
    if execution.implementation != 'xla':
        return 0
    item = 4 if execution.precision.weights != 'input' else jnp.dtype(execution.precision.block).itemsize
    return sum(a.groups * a.heads * a.queries * a.keys * (4 + item) for a in part.attentions)


def _attention_values(part):
    """Numbers in queries, keys, values and outputs."""
    return sum(2 * a.groups * (a.queries + a.keys) * a.heads * a.head_dim for a in part.attentions)


def _recurrence(part, execution):
    """Mamba's arrays of as many channels as it has inside, float32 but for the products; nothing of its memory."""
    item = jnp.dtype(execution.precision.block).itemsize
    return part.tokens * part.recurrence.channels * (10 * 4 + 4 * item) if part.recurrence else 0


def _group(part, clips):
    """Mamba's memory at all frames of the group of tokens that is worked on, and its gradient."""
    if not part.recurrence:
        return 0
    frames = part.tokens // part.recurrence.tokens
    return 2 * frames * min(AT_ONCE, clips * part.recurrence.tokens) * _memory_of_token(part.recurrence)


def _memory_of_token(recurrence):
    return recurrence.channels * recurrence.state * 4

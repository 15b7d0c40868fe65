"""What a train step keeps of a clip until it is differentiated, in bytes: an estimate from shapes.

Within 1.3 times the compiler's on small models.
"""

import jax.numpy as jnp

from rvm_jax.models.cores.selective_scan import CHUNK
from rvm_jax.training.blocks import blocks, frozen_parts


def of_clip(arch, execution, *, num_source, num_target, image_size):
    """Bytes of one clip: what the backward pass reads of every block that trains under the remat policy; all of the
    one layer that is worked on, as one that is recomputed or one of a frozen encoder; frames as float32 pixels and
    patches.

    A frozen encoder keeps nothing. Attention scores count for implementation 'xla' alone: the others never write them
    out, and 'auto' is taken to find one of those. Copies that a compiler adds are not counted.
    """
    sizes = {'num_source': num_source, 'num_target': num_target, 'image_size': image_size}
    found = {part: one for part, one in blocks(arch, **sizes).items() if one.passes}
    size, at_work = 2 * (num_source + 2 * num_target) * 3 * image_size**2 * 4, {}
    for part, one in found.items():
        if part in frozen_parts(arch):
            at_work[part] = forward(one, execution)
            continue
        is_whole = execution.remat == 'none'
        size += one.passes * (whole(one, execution) if is_whole else kept(one, execution))
        at_work[part] = (0 if is_whole else whole(one, execution)) + _chunk(one)
    if 'adapters' in found and execution.remat != 'none':
        size += 2 * found['adapters'].tokens * arch.width * 4  # their norm is outside of what is recomputed
        at_work['adapters'] += at_work.pop('aggregator', 0)  # these are recomputed together
    return size + max(at_work.values(), default=0)


def of_frozen_clip(arch, execution, **sizes):
    """Bytes that the frozen encoder writes for one clip, block after block."""
    found = blocks(arch, **sizes)
    return sum(found[part].passes * forward(found[part], execution) for part in frozen_parts(arch))


def whole(part, execution):
    """All that differentiation keeps of a block: per norm three float32 arrays and its output; queries, keys, values
    and the attention's output; six arrays of the MLP's width, from the GELU; scores and weights with 'xla'. Of Mamba:
    see `_recurrence`.
    """
    item = jnp.dtype(execution.precision.block).itemsize
    num_norms = len(part.attentions) + 1 + bool(part.recurrence and part.attentions)
    size = num_norms * part.tokens * part.width * (3 * 4 + item)
    size += item * (_attention_values(part) + 6 * part.tokens * part.mlp)
    return size + _scores(part, execution) + _recurrence(part, execution)


def kept(part, execution):
    """What remat keeps of a block: its input, and with 'dots' also the products with parameters."""
    size = part.tokens * part.width * jnp.dtype(execution.precision.tokens).itemsize
    if execution.remat == 'dots':
        products = _attention_values(part) + part.tokens * part.mlp
        if part.recurrence:
            products += 4 * part.tokens * part.recurrence.channels
        size += products * jnp.dtype(execution.precision.block).itemsize
    return size + (_memory(part.recurrence) if part.recurrence else 0)


def forward(part, execution):
    """What a block that is not differentiated writes: outputs of its norms and halves, queries, keys, values and the
    attention's output, the MLP's hidden layer; scores with 'xla'.
    """
    precision = execution.precision
    item, stream = (jnp.dtype(dtype).itemsize for dtype in (precision.block, precision.tokens))
    hidden = (1 + part.is_gated) * part.tokens * part.mlp
    size = 2 * part.tokens * part.width * (item + stream) + item * (_attention_values(part) + hidden)
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
    """Mamba's arrays of as many channels as it has inside, float32 but for the products; and the memory that it starts
    from, and at the start of each chunk of frames.
    """
    if not part.recurrence:
        return 0
    item, one = jnp.dtype(execution.precision.block).itemsize, part.recurrence
    chunks = -(-part.tokens // (one.tokens * CHUNK))
    return part.tokens * one.channels * (10 * 4 + 4 * item) + (1 + chunks) * _memory(one)


def _chunk(part):
    """The chunk of frames that is worked on, which is always computed again: five memories a frame, with gradients."""
    if not part.recurrence:
        return 0
    return 5 * min(CHUNK, part.tokens // part.recurrence.tokens) * _memory(part.recurrence)


def _memory(recurrence):
    return recurrence.tokens * recurrence.channels * recurrence.state * 4

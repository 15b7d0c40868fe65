"""What training costs, from shapes alone: FLOPs of a clip, bytes of memory, and the peak of known devices.

One multiply-add is 2 FLOPs; matrix products only. Training is 3 times the forward pass by convention, whatever is
recomputed. The compiler's own count is no substitute: it counts the body of a loop once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rvm_jax.models import build, masking
from rvm_jax.models.decoder import NUM_DELTAS

# device_kind -> dense FLOP/s in bfloat16, and in float32 at JAX's default precision for matrix products: TF32 on GPUs,
# one bfloat16 pass on TPUs. From the makers' data sheets.
PEAKS = {
    'NVIDIA A100': (312e12, 156e12),
    'NVIDIA H100 PCIe': (756e12, 378e12),
    'NVIDIA H100 80GB HBM3': (989e12, 495e12),
    'NVIDIA H200': (989e12, 495e12),
    'NVIDIA GH200': (989e12, 495e12),
    'TPU v4': (275e12, 275e12),
    'TPU v5 lite': (197e12, 197e12),
    'TPU v5e': (197e12, 197e12),
    'TPU v5p': (459e12, 459e12),
    'TPU v5': (459e12, 459e12),
    'TPU v6 lite': (918e12, 918e12),
    'TPU v6e': (918e12, 918e12),
}


class Attention(NamedTuple):
    """Attentions of one shape that run side by side: `groups` sequences of queries, each with its own keys."""

    groups: int
    queries: int
    keys: int
    heads: int
    head_dim: int


class Blocks(NamedTuple):
    """Transformer blocks of one shape, as often as a clip passes through one; tokens are those of a clip."""

    passes: int
    tokens: int
    width: int
    mlp: int
    attentions: tuple[Attention, ...]


def forward_flops(arch, *, num_source, num_target, image_size):
    """FLOPs of one clip's forward pass by part; the parts do not overlap, so their sum is the whole.

    As this model computes it: hidden patches are not embedded, and all targets share one set of source keys and
    values. 'decoder_attention' is the products of queries, keys and values in the decoder, 'decoder' its other work.
    """
    num_patches, num_visible = _patches(arch, image_size)
    blocks = _blocks(arch, num_source, num_target, image_size)
    decoder_attention = blocks['decoder'].passes * sum(map(_score_flops, blocks['decoder'].attentions))
    patch = 3 * arch.patch_size**2
    embedded = num_source * (num_patches + 1) + num_target * (num_visible + 1)
    gates = num_source * 4 * 2 * (num_patches + 1) * arch.width**2
    flops = {name: part.passes * _block_flops(part) for name, part in blocks.items()}
    return {
        'patch_embed': 2 * (num_source * num_patches + num_target * num_visible) * patch * arch.width,
        'encoder_source': flops['encoder_source'],
        'encoder_target': flops['encoder_target'],
        'core': flops['core'] + gates,
        'decoder': flops['decoder'] - decoder_attention,
        'decoder_attention': decoder_attention,
        'embedder_detokenizer': 2 * arch.decoder_width
        * (embedded * arch.width + num_target * (NUM_DELTAS * arch.delta_embedding + num_patches * patch)),
    }  # fmt: skip


def train_flops(arch, *, num_source, num_target, image_size):
    """FLOPs of one clip in training: 3 times the forward pass."""
    return 3.0 * sum(forward_flops(arch, num_source=num_source, num_target=num_target, image_size=image_size).values())


def device_peak(device, precision):
    """Dense FLOP/s of a JAX device in a config's `model.precision`; None where it is not known, as for every CPU."""
    known = [kind for kind in PEAKS if device.device_kind.startswith(kind)]
    return PEAKS[max(known, key=len)][precision == 'float32'] if known else None


def memory(arch, execution, batch, *, num_source, num_target, image_size):
    """Bytes that a train step of `batch` clips holds on one device, by what holds them; an estimate, within 1.3 times
    the compiler's on small models.

    weights, gradients: 4 a parameter; optimizer: 8, AdamW's two moments. activations: what the backward pass reads
    of every block under the remat policy, with remat also all of the one block that is being recomputed, and the
    frames as float32 pixels and patches. Attention scores count for implementation 'xla' alone: the others never
    write them out, and 'auto' is taken to find one of those. Copies that a compiler adds are not counted.
    """
    frames = (num_source + 2 * num_target) * 3 * image_size**2 * 4
    blocks = _blocks(arch, num_source, num_target, image_size).values()
    everything = [_block_bytes(part, execution) for part in blocks]
    if execution.remat == 'none':
        kept, recomputed = everything, 0
    else:
        kept, recomputed = [_kept_bytes(part, execution) for part in blocks], max(everything)
    activations = sum(part.passes * size for part, size in zip(blocks, kept, strict=True)) + recomputed + 2 * frames
    weights = 4 * num_parameters(arch)
    return {
        'weights': weights,
        'optimizer': 2 * weights,
        'gradients': weights,
        'activations': batch * activations,
    }


@functools.cache
def num_parameters(arch):
    """Parameters of a model, decoder included where it has one; nothing is allocated."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(build.abstract(arch)))


def _patches(arch, image_size):
    num_patches = (image_size // arch.patch_size) ** 2
    return num_patches, masking.num_visible(num_patches, arch.mask_ratio)


def _blocks(arch, num_source, num_target, image_size):
    num_patches, num_visible = _patches(arch, image_size)
    frame, seen = num_patches + 1, num_visible + 1

    def encoder(frames, tokens):
        attention = Attention(frames, tokens, tokens, arch.encoder_heads, arch.encoder_head_dim)
        return Blocks(arch.encoder_layers, frames * tokens, arch.width, arch.encoder_mlp, (attention,))

    core = Attention(1, frame, frame, arch.core_heads, arch.core_head_dim)
    decoder = (
        Attention(1, num_target * frame, num_source * frame, arch.decoder_heads, arch.decoder_head_dim),
        Attention(num_target, frame, frame, arch.decoder_heads, arch.decoder_head_dim),
    )
    return {
        'encoder_source': encoder(num_source, frame),
        'encoder_target': encoder(num_target, seen),
        'core': Blocks(num_source * arch.core_layers, frame, arch.width, arch.core_mlp, (core, core)),
        'decoder': Blocks(
            arch.decoder_layers if arch.decoder_width else 0,
            num_target * frame,
            arch.decoder_width,
            arch.decoder_mlp,
            decoder,
        ),
    }


def _block_flops(part):
    projections = sum(
        2 * 2 * a.groups * (a.queries + a.keys) * part.width * a.heads * a.head_dim for a in part.attentions
    )
    return projections + sum(map(_score_flops, part.attentions)) + 2 * 2 * part.tokens * part.width * part.mlp


def _score_flops(a):
    return 2 * 2 * a.groups * a.queries * a.keys * a.heads * a.head_dim


def _block_bytes(part, execution):
    """All that differentiation keeps of a block: per norm three float32 arrays and its output; queries, keys, values
    and the attention's output; six arrays of the MLP's width, from the GELU; scores and weights with 'xla'.
    """
    precision = execution.precision
    item = jnp.dtype(precision.block).itemsize
    norms = (len(part.attentions) + 1) * part.tokens * part.width * (3 * 4 + item)
    size = norms + item * (_attention_values(part) + 6 * part.tokens * part.mlp)
    if execution.implementation == 'xla':
        weights = item if precision.weights == 'input' else 4
        size += sum(a.groups * a.heads * a.queries * a.keys * (4 + weights) for a in part.attentions)
    return size


def _kept_bytes(part, execution):
    """What remat keeps of a block: its input, and with 'dots' also the products with parameters."""
    size = part.tokens * part.width * jnp.dtype(execution.precision.tokens).itemsize
    if execution.remat == 'dots':
        products = _attention_values(part) + part.tokens * part.mlp
        size += products * jnp.dtype(execution.precision.block).itemsize
    return size


def _attention_values(part):
    """Numbers in queries, keys, values and outputs."""
    return sum(2 * a.groups * (a.queries + a.keys) * a.heads * a.head_dim for a in part.attentions)

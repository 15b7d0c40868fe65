"""What a clip costs, from the sizes alone: FLOPs, memory, and the share of a chip's peak that a rate amounts to.

A compiler's count cannot be used in the log: it counts the body of a scan once. One multiply-add is two FLOPs; norms,
softmax, activations and the loss are left out; training is three times the forward pass, whatever is recomputed.
"""

import jax

from rvm_jax.models import build, masking

PEAKS = {  # dense FLOP/s of one chip in bfloat16, by the start of JAX's device kind (vendors' data sheets)
    'NVIDIA H200': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100': 989e12,
    'NVIDIA A100': 312e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v6': 918e12,
}


def forward_flops(arch, *, num_source, num_target, image_size):
    """FLOPs of one clip's forward pass, {part: FLOPs}; the parts add up to the whole."""
    patches = (image_size // arch.patch_size) ** 2
    tokens, visible = patches + 1, masking.num_visible(patches, arch.mask_ratio) + 1
    patch_values, width = arch.patch_size**2 * 3, arch.width
    embedded = num_source * patches + num_target * (visible - 1)
    core = _cross_blocks(arch, 'core', width, groups=1, queries=tokens, keys=tokens) + 2 * 4 * tokens * width**2
    flops = {
        'patch embedding': 2 * embedded * patch_values * width,
        'encoder, source': num_source * _blocks(arch, tokens),
        'encoder, targets': num_target * _blocks(arch, visible),
        'core': num_source * core,
    }
    if arch.decoder_width:
        keys, narrow = num_source * tokens, arch.decoder_width
        flops |= {
            'decoder': _cross_blocks(arch, 'decoder', narrow, groups=num_target, queries=tokens, keys=keys),
            'embedder and detokenizer': 2
            * narrow
            * ((keys + num_target * visible) * width + num_target * patches * patch_values),
        }
    return flops


def train_flops(arch, **clip):
    """FLOPs of one clip's training step; clip as in `forward_flops`."""
    return 3 * sum(forward_flops(arch, **clip).values())


def device_peak(device, precision):
    """Peak FLOP/s of a device in the given precision of the config; None where it is not known (CPUs, float32)."""
    if precision == 'float32':
        return None  # how float32 products run (TF32, several bfloat16 passes) is the compiler's choice
    return next((peak for kind, peak in PEAKS.items() if device.device_kind.startswith(kind)), None)


def memory(arch, *, batch_size, num_source, num_target, image_size, remat, half):
    """Bytes on one device that holds a whole model, {part: bytes}.

    Weights, gradients and the two moments of AdamW are float32. Activations are what the backward pass keeps of
    every block: with remat 'full' its input, with 'dots' also the products with parameters, with 'none' all
    intermediates; plus the working set of one decoder block. half: activations are bfloat16. An estimate, within a
    factor of two of the compiler's own figure; `rvm plan` asks the compiler.
    """
    patches = (image_size // arch.patch_size) ** 2
    tokens, visible = patches + 1, masking.num_visible(patches, arch.mask_ratio) + 1
    size, keys = 2 if half else 4, num_source * tokens
    encoded = num_source * tokens + num_target * visible
    kept = {
        part: count * _kept_values(arch, part, remat) * layers
        for part, count, layers in (
            ('encoder', encoded, arch.encoder_layers),
            ('core', num_source * tokens, arch.core_layers),
            ('decoder', num_target * tokens, arch.decoder_layers if arch.decoder_width else 0),
        )
    }
    scores = arch.decoder_heads * num_target * tokens * keys if arch.decoder_width else 0
    if remat == 'none':
        scores *= arch.decoder_layers
    parameters = sum(leaf.size for leaf in jax.tree.leaves(build.abstract(arch)))
    return {
        'weights': 4 * parameters,
        'gradients': 4 * parameters,
        'optimizer': 8 * parameters,
        'activations': batch_size * (size * sum(kept.values()) + 2 * 4 * scores),
    }


def _blocks(arch, tokens):
    """FLOPs of the encoder's blocks on one frame."""
    inner = arch.encoder_heads * arch.encoder_head_dim
    products = tokens * (4 * arch.width * inner + 2 * arch.width * arch.encoder_mlp)
    return 2 * arch.encoder_layers * (products + 2 * tokens**2 * inner)


def _cross_blocks(arch, part, width, *, groups, queries, keys):
    """FLOPs of a stack of cross-attention blocks; keys and values are projected once for all groups."""
    layers, heads, head_dim, mlp = (getattr(arch, f'{part}_{name}') for name in ('layers', 'heads', 'head_dim', 'mlp'))
    inner, rows = heads * head_dim, groups * queries
    products = rows * (6 * width * inner + 2 * width * mlp) + 2 * keys * width * inner
    scores = 2 * rows * (keys + queries) * inner
    return 2 * layers * (products + scores)


def _kept_values(arch, part, remat):
    """Values a token of a block leaves behind for the backward pass."""
    width = arch.decoder_width if part == 'decoder' else arch.width
    inner = getattr(arch, f'{part}_heads') * getattr(arch, f'{part}_head_dim')
    mlp, attentions = getattr(arch, f'{part}_mlp'), 1 if part == 'encoder' else 2
    if remat == 'full':
        return width
    products = width + mlp + width + attentions * (3 * inner + width)
    return products if remat == 'dots' else products + 3 * mlp + attentions * (2 * width + inner) + 3 * width

"""What a clip passes through: tokens of its frames, and the blocks of each part, from an architecture alone.

cost.py counts their FLOPs, activations.py what a step keeps of them.
"""

from typing import NamedTuple

from rvm_jax.models import adapters, masking
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.block_shapes import Attention, Blocks
from rvm_jax.models.catalog import core_class, encoder_class


class Tokens(NamedTuple):
    """Of one frame: its patches, those of a target that stay visible, and with the prefix (CLS, registers) tokens of
    a source frame, of a target on its way to the decoder, and of a target in the decoder.
    """

    patches: int
    visible: int
    source: int
    seen: int
    query: int


def tokens(arch: Architecture, image_size: int) -> Tokens:
    """The Tokens of frames of this many pixels on a side."""
    patches = (image_size // arch.patch_size) ** 2
    visible = masking.num_visible(patches, arch.mask_ratio)
    prefix = encoder_class(arch.encoder).prefix_tokens(arch)
    target_prefix = 1 if arch.target == 'light_target' else prefix
    return Tokens(patches, visible, prefix + patches, target_prefix + visible, target_prefix + patches)


def frozen_parts(arch: Architecture) -> tuple[str, ...]:
    """Names of parts, of `blocks` and `cost.forward_flops`, that go through a frozen encoder: forward alone."""
    runs = {
        'encoder_source': True,
        'encoder_target': arch.target in ('frozen_visible', 'mask_token'),
        'encoder_features': arch.feature_head,
    }
    return tuple(part for part, runs_it in runs.items() if runs_it and arch.is_frozen)


def num_taps(arch: Architecture) -> int:
    """Depths of the encoder that adapters make one of; 0 without adapters."""
    has_adapters = arch.is_frozen and arch.taps != adapters.LAST
    return len(adapters.tapped_blocks(arch.taps, arch.encoder_layers)) if has_adapters else 0


def blocks(arch: Architecture, *, num_source: int, num_target: int, image_size: int) -> dict[str, Blocks]:
    """{part: its Blocks}, the same parts for every architecture; one that it lacks has 0 passes."""
    num, depths = tokens(arch, image_size), num_taps(arch)
    num_target = num_target if arch.decoder_width else 0
    patches = num_source * num.patches
    pooled = Attention(patches, 1, depths, 8, arch.width // 8)
    across = Attention(1, num_target * num.query, num_source * num.source, arch.decoder_heads, arch.decoder_head_dim)
    within = Attention(num_target, num.query, num.query, arch.decoder_heads, arch.decoder_head_dim)
    encoder, core = encoder_class(arch.encoder), core_class(arch.core)
    # Frames of a window attend to each other within a trained encoder, too, see `ViT.encode_clip`.
    is_joint = not arch.is_frozen and not core.is_streaming
    source = (1, num_source * num.source) if is_joint else (num_source, num.source)
    return {
        'encoder_source': encoder.shapes(arch, *source),
        'encoder_target': _target(arch, num_target, num),
        'encoder_features': encoder.shapes(arch, num_target * arch.feature_head, num.source),
        'adapters': Blocks(min(depths, 1), depths * patches, arch.width, 2 * arch.width, ()),
        'aggregator': Blocks(
            int(depths and arch.aggregator == 'xattn'), patches, arch.width, 4 * arch.width, (pooled,)
        ),
        'core': core.shapes(arch, num_source, num.source),
        'decoder': Blocks(
            arch.decoder_layers if arch.decoder_width else 0,
            num_target * num.query,
            arch.decoder_width,
            arch.decoder_mlp,
            (across, within),
        ),
    }


def _target(arch, frames, num):
    if arch.target != 'light_target':
        num_tokens = num.source if arch.target == 'mask_token' else num.seen
        return encoder_class(arch.encoder).shapes(arch, frames, num_tokens)
    attention = Attention(frames, num.seen, num.seen, arch.target_heads, arch.decoder_width // arch.target_heads)
    passes = arch.target_layers if frames else 0
    return Blocks(passes, frames * num.seen, arch.decoder_width, arch.target_mlp, (attention,))

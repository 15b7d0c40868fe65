"""What a clip passes through: tokens of its frames, and the blocks of each part, from an architecture alone.

cost.py counts their FLOPs, activations.py what a step keeps of them.
"""

from typing import NamedTuple

from rvm_jax.models import adapters, build, masking


class Attention(NamedTuple):
    """Attentions of one shape that run side by side: `groups` sequences of queries, each with its own keys."""

    groups: int
    queries: int
    keys: int
    heads: int
    head_dim: int


class Recurrence(NamedTuple):
    """Mamba over the frames: channels inside, and numbers that each of them carries for every token of a frame."""

    tokens: int
    channels: int
    state: int


class Blocks(NamedTuple):
    """Layers of one shape, as often as a clip passes through one; tokens are those of a clip. mlp 0: it has none."""

    passes: int
    tokens: int
    width: int
    mlp: int
    attentions: tuple[Attention, ...]
    is_gated: bool = False  # the MLP
    is_rotated: bool = False  # queries and keys, by RoPE
    recurrence: Recurrence | None = None


class Tokens(NamedTuple):
    """Of one frame: its patches, those of a target that stay visible, and with the prefix (CLS, registers) tokens of
    a source frame, of a target on its way to the decoder, and of a target in the decoder.
    """

    patches: int
    visible: int
    source: int
    seen: int
    query: int


def tokens(arch, image_size):
    """The Tokens of frames of this many pixels on a side."""
    patches = (image_size // arch.patch_size) ** 2
    visible = masking.num_visible(patches, arch.mask_ratio)
    prefix = 1 if arch.image_encoder is None else arch.image_encoder.num_prefix_tokens
    target_prefix = prefix if 'encoder_target' in frozen_parts(arch) else 1
    return Tokens(patches, visible, prefix + patches, target_prefix + visible, target_prefix + patches)


def frozen_parts(arch):
    """Names of parts, of `blocks` and `cost.forward_flops`, that go through a frozen encoder: forward alone."""
    runs = {
        'encoder_source': True,
        'encoder_target': arch.target in ('frozen_visible', 'mask_token'),
        'encoder_features': arch.feature_head,
    }
    return tuple(part for part, runs_it in runs.items() if runs_it and arch.is_frozen)


def num_taps(arch):
    """Depths of the encoder that adapters make one of; 0 without adapters."""
    has_adapters = arch.is_frozen and arch.taps != adapters.LAST
    return len(adapters.tapped_blocks(arch.taps, arch.encoder_layers)) if has_adapters else 0


def blocks(arch, *, num_source, num_target, image_size):
    """{part: its Blocks}, the same parts for every architecture; one that it lacks has 0 passes."""
    num, depths = tokens(arch, image_size), num_taps(arch)
    num_target = num_target if arch.decoder_width else 0
    patches = num_source * num.patches
    pooled = Attention(patches, 1, depths, 8, arch.width // 8)
    across = Attention(1, num_target * num.query, num_source * num.source, arch.decoder_heads, arch.decoder_head_dim)
    within = Attention(num_target, num.query, num.query, arch.decoder_heads, arch.decoder_head_dim)
    is_joint = arch.encoder == 'vit' and arch.core == 'self_attention'
    whole = _encoder(arch, num_source, num.source)
    return {
        'encoder_source': _encoder(arch, 1, num_source * num.source) if is_joint else whole,
        'encoder_target': _target(arch, num_target, num),
        'encoder_features': _encoder(arch, num_target * arch.feature_head, num.source),
        'adapters': Blocks(min(depths, 1), depths * patches, arch.width, 2 * arch.width, ()),
        'aggregator': Blocks(
            int(depths and arch.aggregator == 'xattn'), patches, arch.width, 4 * arch.width, (pooled,)
        ),
        'core': _core(arch, num_source, num.source),
        'decoder': Blocks(
            arch.decoder_layers if arch.decoder_width else 0,
            num_target * num.query,
            arch.decoder_width,
            arch.decoder_mlp,
            (across, within),
        ),
    }


def _encoder(arch, frames, num_tokens):
    attention = Attention(frames, num_tokens, num_tokens, arch.encoder_heads, arch.encoder_head_dim)
    image, passes = arch.image_encoder, arch.encoder_layers if frames else 0
    ways = {'is_gated': image.gated, 'is_rotated': bool(image.rope_periods)} if image else {}
    return Blocks(passes, frames * num_tokens, arch.width, arch.encoder_mlp, (attention,), **ways)


def _target(arch, frames, num):
    if arch.target != 'light_target':
        return _encoder(arch, frames, num.source if arch.target == 'mask_token' else num.seen)
    attention = Attention(frames, num.seen, num.seen, arch.target_heads, arch.decoder_width // arch.target_heads)
    passes = arch.target_layers if frames else 0
    return Blocks(passes, frames * num.seen, arch.decoder_width, arch.target_mlp, (attention,))


def _core(arch, frames, num_tokens):
    def attention(groups, length):
        return Attention(groups, length, length, arch.core_heads, arch.core_head_dim)

    layers, width, length = arch.core_layers, arch.width, frames * num_tokens
    if arch.core == 'rvmrnn':
        one = attention(1, num_tokens)
        return Blocks(frames * layers, num_tokens, width, arch.core_mlp, (one, one))
    if arch.core == 'self_attention':
        return Blocks(layers, length, width, arch.core_mlp, (attention(1, length),))
    if arch.core == 'identity':
        return Blocks(0, length, width, 0, ())
    core = build.abstract(arch).core
    recurrence = Recurrence(num_tokens, core.inner, core.d_state)
    if arch.core == 'mamba':
        return Blocks(layers, length, width, 0, (), recurrence=recurrence)
    return Blocks(layers, length, width, 4 * width, (attention(frames, num_tokens),), recurrence=recurrence)

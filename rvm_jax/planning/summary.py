"""What an architecture is, for people: rows of (what, text) that `rvm info` and `rvm plan` show."""

import dataclasses
from typing import TYPE_CHECKING

from rvm_jax.models.catalog import NO_CORE, core_keys

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture

# Fields of an architecture that do not make it another model than a preset.
CIRCUMSTANCES = ('mask_ratio', 'shared_mask', 'image_size', 'delta_from', 'num_source', 'core_dropout')
CHOICES = ('encoder', 'image_encoder', 'taps', 'adapter_norm', 'aggregator', 'core', 'target', 'feature_head')
OF_ENCODER = ('patch_size', 'encoder_layers', 'encoder_heads', 'encoder_head_dim', 'encoder_mlp')


def architecture_rows(arch: 'Architecture') -> list[tuple[str, str]]:
    """Parameters, which preset it is, and its parts."""
    from rvm_jax.models import cost

    with_decoder, without = (
        cost.num_parameters(one) for one in (arch, dataclasses.replace(arch, decoder_width=0, feature_head=False))
    )
    decoder = f'width {arch.decoder_width}, {arch.decoder_layers} layers, {arch.decoder_heads} heads'
    counts = f'{with_decoder:,} with decoder, {without:,} without' if arch.decoder_width else f'{without:,}, no decoder'
    return [
        ('parameters', counts),
        ('size', preset(arch)),
        *part_rows(arch),
        ('decoder', decoder if arch.decoder_width else 'none'),
    ]


def part_rows(arch: 'Architecture') -> list[tuple[str, str]]:
    """The encoder, how its tokens are used, the core, and how target frames reach the decoder."""
    from rvm_jax.models import adapters, cost

    counts, image = cost.parameter_counts(arch), arch.image_encoder
    rows = []
    is_frozen = arch.is_frozen and arch.core != NO_CORE  # by itself an encoder is neither frozen nor trained
    if is_frozen:
        rows.append(('frozen', f'{counts["frozen"]:,} parameters, of the encoder; {counts["trained"]:,} are trained'))
    rows.append(('encoder', f'{arch.encoder}, patch {arch.patch_size}, width {arch.width}, {arch.encoder_layers} '
                            f'layers, {arch.encoder_heads} heads' + (f', {_image_facts(image)}' if image else '')
                            + ', frozen' * is_frozen))  # fmt: skip
    if is_frozen:
        blocks = ', '.join(map(str, adapters.tapped_blocks(arch.taps, arch.encoder_layers)))
        has_adapters = arch.taps != adapters.LAST
        how = f', adapters with {arch.adapter_norm}, {arch.aggregator}' if has_adapters else ', no adapters'
        rows.append(('taps', f'{arch.taps}: after blocks {blocks} from 0{how}'))
    rows.append(('core', _core_facts(arch)))
    if arch.decoder_width and arch.target != 'shared':
        rows.append(('target', _target_facts(arch)))
    return rows


def _image_facts(image):
    prefix = ['CLS'] * image.cls + [f'{image.registers} registers'] * bool(image.registers)
    return f'{"gated " * image.gated}MLP {image.mlp}, {" and ".join(prefix) or "no CLS"}'


def _core_facts(arch):
    from rvm_jax.models import cost
    from rvm_jax.models.layer_shapes import blocks

    if arch.core == NO_CORE:
        return 'none: the tokens of the encoder are the features'
    count = cost.count(cost.parameters(arch)['core'])
    part = blocks(arch, num_source=1, num_target=1, image_size=arch.image_size)['core']
    facts = [f'{arch.core}, {arch.core_layers} layers']
    facts += [f'{arch.core_heads} heads'] * bool(part.attentions) + [f'MLP {part.mlp}'] * bool(part.mlp)
    if part.recurrence:
        facts.append(f'{part.recurrence.state} x {part.recurrence.channels} numbers of state a token and layer')
    return f'{", ".join(facts)}; {count:,} parameters'


def _target_facts(arch):
    return {
        'light_target': f'light_target: a ViT of {arch.target_layers} layers, {arch.target_heads} heads, MLP '
                        f'{arch.target_mlp}, which trains',
        'frozen_visible': 'frozen_visible: the encoder on visible patches',
        'mask_token': 'mask_token: the encoder on all patches, its mask token at hidden ones',
    }[arch.target] + (', and features of the encoder are predicted' if arch.feature_head else '')  # fmt: skip


def preset(arch: 'Architecture') -> str:
    """The preset that an architecture is, or the nearest one with what differs; which encoder, core and target path
    it has is another matter. Of an image encoder by itself: the released size.
    """
    from rvm_jax.models.architecture import HOW_USED, SIZES
    from rvm_jax.models.encoders.image_architecture import STANDARD

    if arch.core == NO_CORE:
        released = [size for (_, size), image in STANDARD.items() if image == arch.image_encoder]
        return released[0] if released else 'none of the presets'
    ignored = CIRCUMSTANCES + HOW_USED + CHOICES + (OF_ENCODER if arch.is_frozen else ())
    has_mlp = 'core_mlp' in core_keys(arch.core)

    def differences(size):
        expected = dataclasses.asdict(_with_core(size, arch.core))
        return {
            name: f'{name} {value}, not {expected[name]}'
            for name, value in dataclasses.asdict(arch).items()
            if value != expected[name] and name not in ignored
            and (arch.decoder_width or not name.startswith('decoder_'))
            and ((arch.decoder_width and arch.target == 'light_target') or not name.startswith('target_'))
            and (has_mlp or name != 'core_mlp')
        }  # fmt: skip

    near = min(SIZES, key=lambda size: len(differences(size)))
    found = differences(near)
    if len(found) > 4:
        return 'none of the presets'
    return near + (f' but {"; ".join(found.values())}' if found else '')


def _with_core(size, core):
    """A preset with the layers and heads that this core has there."""
    from rvm_jax.models.architecture import SIZES, core_size

    sizes, (layers, heads) = SIZES[size], core_size(size, core)
    return dataclasses.replace(sizes, core_layers=layers, core_heads=heads, core_head_dim=sizes.width // heads)

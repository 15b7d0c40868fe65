"""What a model is made of: sizes and switches, from a config and what is imported into it."""

import dataclasses

from ml_collections import ConfigDict

from rvm_jax.errors import UserError
from rvm_jax.models import adapters
from rvm_jax.models.catalog import ENCODERS, NO_CORE, core_class
from rvm_jax.models.encoders.image_architecture import ImageArchitecture, standard

HOW_USED = ('fps', 'max_gap')  # fields that decide nothing about parameters and outputs; older files lack them


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that decides which parameters a model has and what it computes from them; stored with the weights.

    Also which clips it was trained on (HOW_USED). Sizes and switches as in the released S model. The switches are
    explained in `config.py`.
    """

    patch_size: int = 16
    width: int = 384
    encoder: str = 'vit'  # a name in catalog.ENCODERS, or a frozen one: 'rvm', or the family of image_encoder
    encoder_layers: int = 12
    encoder_heads: int = 6
    encoder_head_dim: int = 64
    encoder_mlp: int = 1536
    image_encoder: ImageArchitecture | None = None
    taps: str = adapters.LAST
    adapter_norm: str = 'bn'
    aggregator: str = 'mean'
    core: str = 'rvmrnn'
    core_layers: int = 4
    core_heads: int = 8
    core_head_dim: int = 48
    core_mlp: int = 2048  # as released; 4 x width would be 1536
    core_dropout: float = 0.1
    output_norm: bool = False
    target: str = 'shared'
    target_layers: int = 2
    target_heads: int = 8
    target_mlp: int = 2048
    decoder_width: int = 512  # 0: no decoder
    decoder_layers: int = 8
    decoder_heads: int = 16
    decoder_head_dim: int = 32
    decoder_mlp: int = 2048
    feature_head: bool = False
    block_order: str = 'cross_mlp_self'
    gate_bias: bool = False
    state_norm: bool = True
    gelu: str = 'tanh'
    delta_embedding: bool = True
    position_resize: str = 'jax'
    mask_ratio: float = 0.95
    shared_mask: bool = False
    image_size: int = 256
    num_source: int = 4
    delta_from: str = 'first'
    fps: float = 0.0  # frames per second of its training clips, of most of them in a mixture; 0: not known
    max_gap: int = 0  # frames from the last source frame to the farthest target of its training; 0: not known

    @property
    def is_frozen(self) -> bool:
        """The image encoder is somebody's, and not trained."""
        return self.encoder not in ENCODERS


def _size(width, layers, heads, core_heads, core_mlp=None):
    return Architecture(
        width=width,
        encoder_layers=layers,
        encoder_heads=heads,
        encoder_head_dim=width // heads,
        encoder_mlp=4 * width,
        core_heads=core_heads,
        core_head_dim=width // core_heads,
        core_mlp=core_mlp or 4 * width,
    )


def _small(width, layers, heads, *, core_layers, decoder_layers):
    """Ours, for CPUs: patch 8, so that 48 x 48 pixels are a 6 x 6 grid."""
    return dataclasses.replace(
        _size(width, layers, heads=heads, core_heads=heads),
        patch_size=8,
        core_layers=core_layers,
        target_heads=heads,
        target_mlp=4 * width,
        decoder_width=width,
        decoder_layers=decoder_layers,
        decoder_heads=heads,
        decoder_mlp=4 * width,
    )


SIZES = {  # RVM, supplement Tables 5 and 6; core MLP of S and head counts of the core read off the released files
    's': _size(384, 12, heads=6, core_heads=8, core_mlp=2048),
    'b': _size(768, 12, heads=12, core_heads=12),
    'l': _size(1024, 24, heads=16, core_heads=16),
    'h': _size(1280, 32, heads=16, core_heads=16),
    'tiny': _small(64, 4, heads=2, core_layers=2, decoder_layers=3),
    'mini': _small(128, 6, heads=4, core_layers=3, decoder_layers=4),
}


def core_size(size: str, core: str) -> tuple[int, int]:
    """(layers, heads) that a core has in a model of a size: those that it states, or the size's."""
    return core_class(core).sizes.get(size, (SIZES[size].core_layers, SIZES[size].core_heads))


def from_config(config: ConfigDict, imported: 'ImageArchitecture | Architecture | None' = None) -> Architecture:
    """The Architecture of a config: a size and the switches that differ.

    imported: what lies at model.encoder_path, an ImageArchitecture, or the Architecture of an RVM; None takes the
    standard one of that name and size. Raises UserError if sizes do not fit together.
    """
    model, data = config.model, config.data
    switches = ('encoder', 'core', 'block_order', 'gate_bias', 'state_norm', 'gelu', 'delta_embedding',
                'position_resize', 'mask_ratio', 'shared_mask', 'output_norm', 'core_dropout')  # fmt: skip
    sizes = dataclasses.replace(SIZES[model.size], **{name: model[name] for name in switches})
    if sizes.is_frozen:
        sizes = _frozen(sizes, model, imported)
    if data.image_size % sizes.patch_size:
        raise UserError(
            f'config.data.image_size={data.image_size}', f'is not a multiple of the patch, {sizes.patch_size} pixels',
            f'take {max(data.image_size // sizes.patch_size, 1) * sizes.patch_size}',
        )  # fmt: skip
    core_layers, core_heads = core_size(model.size, model.core)
    if sizes.width % core_heads:
        raise UserError(
            f'config.model.core={model.core}', f'has {core_heads} heads, which do not divide the width {sizes.width}',
            'take another config.model.size, or another encoder',
        )  # fmt: skip
    return dataclasses.replace(
        sizes,
        core_layers=model.core_layers or core_layers,
        core_heads=core_heads,
        core_head_dim=sizes.width // core_heads,
        core_mlp=model.core_mlp or sizes.core_mlp,
        target=model.target if model.target != 'auto' else 'light_target' if sizes.is_frozen else 'shared',
        feature_head=config.objective.feature_weight > 0,
        image_size=data.image_size,
        num_source=data.num_source,
        delta_from=data.delta_from,
        fps=_usual_fps(data),
        max_gap=data.max_gap,
    )


def _usual_fps(data):
    """The frame rate of most clips."""
    weights: dict[float, float] = {data.fps: 0.0}
    for _, fps, weight in data.mixture:
        weights[fps] = weights.get(fps, 0.0) + weight
    return float(max(weights, key=lambda fps: weights[fps]))


def _frozen(sizes, model, imported):
    """Sizes of an encoder that is there already, and of a core as wide as it."""
    if imported is None:
        imported = sizes if model.encoder == 'rvm' else standard(model.encoder, model.size)
    near = [size for size, preset in SIZES.items() if preset.width == imported.width]
    if near and model.size not in near:
        raise UserError(
            f'config.model.size={model.size}', f'the encoder is {imported.width} wide, as size {near[0]}',
            f'give --config.model.size={near[0]}, or the weights of another encoder',
        )  # fmt: skip
    sizes = dataclasses.replace(
        sizes,
        width=imported.width,
        patch_size=imported.patch_size,
        core_mlp=sizes.core_mlp if near else 4 * imported.width,
        taps=model.taps,
        adapter_norm=model.adapter_norm,
        aggregator=model.aggregator,
    )
    if isinstance(imported, Architecture):
        for name in ('gelu', 'position_resize'):
            if getattr(imported, name) != model[name]:
                raise UserError(
                    f'config.model.{name}={model[name]}', f'the encoder was trained with {getattr(imported, name)}',
                    f'give --config.model.{name}={getattr(imported, name)}',
                )  # fmt: skip
        taken = 'encoder_layers', 'encoder_heads', 'encoder_head_dim', 'encoder_mlp'
        sizes = dataclasses.replace(sizes, **{name: getattr(imported, name) for name in taken})
    else:
        sizes = dataclasses.replace(sizes, **_encoder_sizes(imported))
    adapters.tapped_blocks(sizes.taps, sizes.encoder_layers)
    return sizes


def image_only(image: ImageArchitecture) -> Architecture:
    """The Architecture of an image encoder by itself: its tokens are the features."""
    return Architecture(
        patch_size=image.patch_size,
        width=image.width,
        encoder=image.family,
        **_encoder_sizes(image),
        core=NO_CORE,
        core_layers=0,
        core_heads=0,
        core_head_dim=0,
        core_mlp=0,
        target='light_target',
        decoder_width=0,
        image_size=image.image_size
        // image.patch_size
        * image.patch_size,  # whole patches are used, as in its training
    )


def _encoder_sizes(image):
    return {
        'encoder_layers': image.layers,
        'encoder_heads': image.heads,
        'encoder_head_dim': image.width // image.heads,
        'encoder_mlp': image.mlp,
        'image_encoder': image,
    }

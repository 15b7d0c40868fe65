"""Names in a config become modules: sizes, switches, and which encoder and core."""

import dataclasses

from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import adapters, layers, targets
from rvm_jax.models.cores.gmmix import GMMix
from rvm_jax.models.cores.identity import Identity
from rvm_jax.models.cores.mamba import Mamba
from rvm_jax.models.cores.mambamix import MambaMix
from rvm_jax.models.cores.rvmrnn import RVMRNN
from rvm_jax.models.cores.self_attention import SelfAttention
from rvm_jax.models.decoder import Decoder
from rvm_jax.models.encoders.image_architecture import ImageArchitecture, standard
from rvm_jax.models.encoders.image_vit import ImageEncoder
from rvm_jax.models.encoders.vit import ViT
from rvm_jax.models.rvm import RVM


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that decides which parameters a model has and what it computes from them; stored with the weights.

    Sizes and switches as in the released S model. The switches are explained in `config.py`.
    """

    patch_size: int = 16
    width: int = 384
    encoder: str = 'vit'  # any other is frozen: 'rvm', the ViT of another RVM, or the family of image_encoder
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

    @property
    def is_frozen(self):
        """The image encoder is somebody's, and not trained."""
        return self.encoder != 'vit'


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


SIZES = {  # RVM, supplement Tables 5 and 6; core MLP of S and head counts of the core read off the released files
    's': _size(384, 12, heads=6, core_heads=8, core_mlp=2048),
    'b': _size(768, 12, heads=12, core_heads=12),
    'l': _size(1024, 24, heads=16, core_heads=16),
    'h': _size(1280, 32, heads=16, core_heads=16),
    # Ours, for a CPU: patch 8 so that 48 x 48 pixels are a 6 x 6 grid.
    'tiny': dataclasses.replace(
        _size(64, 4, heads=2, core_heads=2),
        patch_size=8,
        core_layers=2,
        target_heads=2,
        target_mlp=256,
        decoder_width=64,
        decoder_layers=3,
        decoder_heads=2,
        decoder_mlp=256,
    ),
}

# Core -> its layers and heads by size, where they are not those of SIZES. Mamba cores: arXiv 2605.19137. The blocks
# of self_attention hold about as many parameters as the core that they replace (RVM, supplement 9, gives no number).
SPATIAL = {size: (4, 16) for size in SIZES} | {'tiny': (2, 4)}
CORE_SIZES = {
    'mamba': SPATIAL,
    'mambamix': SPATIAL,
    'gmmix': SPATIAL,
    'self_attention': {'s': (7, 6), 'b': (6, 12), 'l': (6, 16), 'h': (6, 16), 'tiny': (3, 2)},
}


def architecture(config, imported=None):
    """The Architecture of a config: a size and the switches that differ.

    imported: what lies at model.encoder_path, an ImageArchitecture, or the Architecture of an RVM; None takes the
    standard one of that name and size. Raises UserError if sizes do not fit together.
    """
    model, data = config.model, config.data
    switches = ('encoder', 'core', 'block_order', 'gate_bias', 'state_norm', 'gelu', 'delta_embedding',
                'position_resize', 'mask_ratio', 'shared_mask', 'output_norm', 'core_dropout')  # fmt: skip
    sizes = dataclasses.replace(SIZES[model.size], **{name: model[name] for name in switches})
    if model.encoder != 'vit':
        sizes = _frozen(sizes, model, imported)
    if data.image_size % sizes.patch_size:
        raise UserError(
            f'config.data.image_size={data.image_size}', f'is not a multiple of the patch, {sizes.patch_size} pixels',
            f'take {max(data.image_size // sizes.patch_size, 1) * sizes.patch_size}',
        )  # fmt: skip
    core_layers, core_heads = CORE_SIZES.get(model.core, {}).get(model.size, (sizes.core_layers, sizes.core_heads))
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
        target=model.target if model.target != 'auto' else 'shared' if model.encoder == 'vit' else 'light_target',
        feature_head=config.objective.feature_weight > 0,
        image_size=data.image_size,
        num_source=data.num_source,
        delta_from=data.delta_from,
    )


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


def image_only(image):
    """The Architecture of an image encoder by itself: its tokens are the features."""
    return Architecture(
        patch_size=image.patch_size,
        width=image.width,
        encoder=image.family,
        **_encoder_sizes(image),
        core='identity',
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


def execution(model, platform=''):
    """The Execution of a config's `model` sub-tree, for devices of a platform, see `Execution`."""
    precision = layers.PRECISIONS[model.precision]
    if model.precision == 'official_mixed':
        precision = dataclasses.replace(precision, weights=model.softmax_dtype)
    inlined = 'layers' if platform == 'gpu' else False
    unroll = {'auto': inlined, 'false': False, 'layers': 'layers', 'true': True}[model.unroll]
    return layers.Execution(precision, model.attention, model.remat, unroll, platform)


def build(arch, execution=layers.Execution(), *, rngs):  # noqa: B008 (frozen)
    """An RVM with fresh parameters drawn from rngs."""
    shared = {'execution': execution, 'rngs': rngs}
    encoder = _vit(arch, shared) if arch.image_encoder is None else ImageEncoder(arch.image_encoder, **shared)
    adapters_ = None
    if arch.is_frozen and arch.taps != adapters.LAST:
        num_depths = len(adapters.tapped_blocks(arch.taps, arch.encoder_layers))
        adapters_ = adapters.Adapters(
            num_depths, arch.width, norm=arch.adapter_norm, aggregator=arch.aggregator, **shared
        )
    core = CORES[arch.core](arch, shared)
    if not arch.decoder_width:
        return RVM(arch, encoder, adapters_, core, None, None)
    return RVM(arch, encoder, adapters_, core, TARGETS[arch.target](arch, shared), _decoder(arch, shared))


def _vit(arch, shared):
    return ViT(
        patch_size=arch.patch_size,
        width=arch.width,
        depth=arch.encoder_layers,
        heads=arch.encoder_heads,
        head_dim=arch.encoder_head_dim,
        mlp=arch.encoder_mlp,
        position_resize=arch.position_resize,
        gelu=arch.gelu,
        **shared,
    )


def _rvmrnn(arch, shared):
    return RVMRNN(
        width=arch.width,
        depth=arch.core_layers,
        heads=arch.core_heads,
        head_dim=arch.core_head_dim,
        mlp=arch.core_mlp,
        block_order=arch.block_order,
        gate_bias=arch.gate_bias,
        state_norm=arch.state_norm,
        output_norm=arch.output_norm,
        gelu=arch.gelu,
        **shared,
    )


def _mamba(arch, shared):
    return Mamba(width=arch.width, depth=arch.core_layers, dropout=arch.core_dropout, **shared)


def _mixed(core):
    def make(arch, shared):
        return core(
            width=arch.width, depth=arch.core_layers, heads=arch.core_heads, dropout=arch.core_dropout, **shared
        )

    return make


def _self_attention(arch, shared):
    return SelfAttention(
        width=arch.width,
        depth=arch.core_layers,
        heads=arch.core_heads,
        head_dim=arch.core_head_dim,
        mlp=arch.core_mlp,
        gelu=arch.gelu,
        time_code=arch.is_frozen,  # positions of the trained ViT carry the time
        **shared,
    )


CORES = {
    'rvmrnn': _rvmrnn,
    'mamba': _mamba,
    'mambamix': _mixed(MambaMix),
    'gmmix': _mixed(GMMix),
    'self_attention': _self_attention,
    'identity': lambda arch, shared: Identity(),
}


def _light_target(arch, shared):
    return targets.LightTarget(
        patch_size=arch.patch_size,
        width=arch.decoder_width,
        depth=arch.target_layers,
        heads=arch.target_heads,
        mlp=arch.target_mlp,
        gelu=arch.gelu,
        **shared,
    )


def _frozen_target(arch, shared):
    is_masked = arch.target == 'mask_token'
    return targets.FrozenTarget(arch.width, arch.decoder_width, is_masked=is_masked, **shared)


TARGETS = {
    'shared': lambda arch, shared: None,
    'light_target': _light_target,
    'frozen_visible': _frozen_target,
    'mask_token': _frozen_target,
}


def _decoder(arch, shared):
    return Decoder(
        input_width=arch.width,
        width=arch.decoder_width,
        depth=arch.decoder_layers,
        heads=arch.decoder_heads,
        head_dim=arch.decoder_head_dim,
        mlp=arch.decoder_mlp,
        patch_size=arch.patch_size,
        block_order=arch.block_order,
        delta_embedding=arch.delta_embedding,
        feature_head=arch.feature_head,
        gelu=arch.gelu,
        **shared,
    )


def abstract(arch, execution=layers.Execution()):  # noqa: B008 (frozen)
    """The same model with shapes for parameters: nothing is allocated, no device is touched."""
    return nnx.eval_shape(lambda: build(arch, execution, rngs=nnx.Rngs(0)))

"""Names in a config become modules: sizes, switches, and which encoder and core."""

import dataclasses

from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import layers
from rvm_jax.models.cores.rvmrnn import RVMRNN
from rvm_jax.models.decoder import Decoder
from rvm_jax.models.encoders.vit import ViT
from rvm_jax.models.rvm import RVM

ENCODERS = {'vit': ViT}
CORES = {'rvmrnn': RVMRNN}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that decides which parameters a model has and what it computes from them; stored with the weights.

    Sizes and switches as in the released S model. The switches are explained in `config.py`.
    """

    patch_size: int = 16
    width: int = 384
    encoder: str = 'vit'
    encoder_layers: int = 12
    encoder_heads: int = 6
    encoder_head_dim: int = 64
    encoder_mlp: int = 1536
    core: str = 'rvmrnn'
    core_layers: int = 4
    core_heads: int = 8
    core_head_dim: int = 48
    core_mlp: int = 2048  # as released; 4 x width would be 1536
    decoder_width: int = 512  # 0: no decoder
    decoder_layers: int = 8
    decoder_heads: int = 16
    decoder_head_dim: int = 32
    decoder_mlp: int = 2048
    block_order: str = 'cross_mlp_self'
    gate_bias: bool = False
    state_norm: bool = True
    gelu: str = 'tanh'
    delta_embedding: bool = True
    position_resize: str = 'jax'
    mask_ratio: float = 0.95
    shared_mask: bool = False
    image_size: int = 256
    delta_from: str = 'first'


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
        decoder_width=64,
        decoder_layers=3,
        decoder_heads=2,
        decoder_mlp=256,
    ),
}


def architecture(model, data):
    """The Architecture of a config's `model` and `data` sub-trees: a size and the switches that differ.

    Raises UserError if data.image_size is not made of whole patches.
    """
    switches = ('encoder', 'core', 'block_order', 'gate_bias', 'state_norm', 'gelu', 'delta_embedding',
                'position_resize', 'mask_ratio', 'shared_mask')  # fmt: skip
    sizes = SIZES[model.size]
    if data.image_size % sizes.patch_size:
        raise UserError(
            f'config.data.image_size={data.image_size}', f'is not a multiple of the patch, {sizes.patch_size} pixels',
            f'take {max(data.image_size // sizes.patch_size, 1) * sizes.patch_size}',
        )  # fmt: skip
    return dataclasses.replace(
        sizes,
        core_mlp=model.core_mlp or sizes.core_mlp,
        image_size=data.image_size,
        delta_from=data.delta_from,
        **{name: model[name] for name in switches},
    )


def execution(model, platform=''):
    """The Execution of a config's `model` sub-tree, for devices of a platform, see `Execution`."""
    precision = layers.PRECISIONS[model.precision]
    if model.precision == 'official_mixed':
        precision = dataclasses.replace(precision, weights=model.softmax_dtype)
    return layers.Execution(precision, model.attention, model.remat, model.unroll, platform)


def build(arch, execution=layers.Execution(), *, rngs):  # noqa: B008 (frozen)
    """An RVM with fresh parameters drawn from rngs."""
    shared = {'gelu': arch.gelu, 'execution': execution, 'rngs': rngs}
    encoder = ENCODERS[arch.encoder](
        patch_size=arch.patch_size,
        width=arch.width,
        depth=arch.encoder_layers,
        heads=arch.encoder_heads,
        head_dim=arch.encoder_head_dim,
        mlp=arch.encoder_mlp,
        position_resize=arch.position_resize,
        **shared,
    )
    core = CORES[arch.core](
        width=arch.width,
        depth=arch.core_layers,
        heads=arch.core_heads,
        head_dim=arch.core_head_dim,
        mlp=arch.core_mlp,
        block_order=arch.block_order,
        gate_bias=arch.gate_bias,
        state_norm=arch.state_norm,
        **shared,
    )
    decoder = arch.decoder_width and Decoder(
        input_width=arch.width,
        width=arch.decoder_width,
        depth=arch.decoder_layers,
        heads=arch.decoder_heads,
        head_dim=arch.decoder_head_dim,
        mlp=arch.decoder_mlp,
        patch_size=arch.patch_size,
        block_order=arch.block_order,
        delta_embedding=arch.delta_embedding,
        **shared,
    )
    return RVM(arch, encoder, core, decoder or None)


def abstract(arch, execution=layers.Execution()):  # noqa: B008 (frozen)
    """The same model with shapes for parameters: nothing is allocated, no device is touched."""
    return nnx.eval_shape(lambda: build(arch, execution, rngs=nnx.Rngs(0)))

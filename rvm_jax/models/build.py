"""An architecture becomes modules, and a config's `model` the way in which they compute."""

import dataclasses

from flax import nnx
from ml_collections import ConfigDict

from rvm_jax.models import adapters, layers, targets
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.catalog import core_class, encoder_class
from rvm_jax.models.decoder import Decoder
from rvm_jax.models.layers import Execution
from rvm_jax.models.rvm import RVM


def execution(model: ConfigDict, platform: str = '') -> Execution:
    """The Execution of a config's `model` sub-tree, for devices of a platform, see `Execution`."""
    precision = layers.PRECISIONS[model.precision]
    if model.precision == 'official_mixed':
        precision = dataclasses.replace(precision, weights=model.softmax_dtype)
    inlined = 'layers' if platform == 'gpu' else False
    unroll = {'auto': inlined, 'false': False, 'layers': 'layers', 'true': True}[model.unroll]
    return layers.Execution(precision, model.attention, model.remat, unroll, platform)


def build(arch: Architecture, execution: Execution = Execution(), *, rngs: nnx.Rngs) -> RVM:  # noqa: B008 (frozen)
    """An RVM with fresh parameters drawn from rngs."""
    shared = {'execution': execution, 'rngs': rngs}
    encoder = encoder_class(arch.encoder).from_architecture(arch, **shared)
    adapters_ = None
    if arch.is_frozen and arch.taps != adapters.LAST:
        num_depths = len(adapters.tapped_blocks(arch.taps, arch.encoder_layers))
        adapters_ = adapters.Adapters(
            num_depths, arch.width, norm=arch.adapter_norm, aggregator=arch.aggregator, **shared
        )
    core = core_class(arch.core).from_architecture(arch, **shared)
    if not arch.decoder_width:
        return RVM(arch, encoder, adapters_, core, None, None)
    return RVM(arch, encoder, adapters_, core, TARGETS[arch.target](arch, shared), _decoder(arch, shared))


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


def abstract(arch: Architecture, execution: Execution = Execution()) -> RVM:  # noqa: B008 (frozen)
    """The same model with shapes for parameters: nothing is allocated, no device is touched."""
    return nnx.eval_shape(lambda: build(arch, execution, rngs=nnx.Rngs(0)))

"""Encoders and cores by the names that a config gives them. A class is imported only when it is asked for.

To add one, write a file in encoders/ or cores/, and a line here. What a core has to state is in cores/core.py; encoders
have the same shape, see encoders/vit.py. This module imports none of them, so that config.py, which needs the names
alone, does not import JAX. A core outside of the package is named MODULE:CLASS, see plugins.py.
"""

import pkgutil
from typing import Any, NamedTuple

from rvm_jax import plugins

# Trained together with the rest of the model; source and target frames share it.
ENCODERS = {'vit': 'rvm_jax.models.encoders.vit:ViT'}

# Imported and not trained: the ViT of another RVM, and the families of image_architecture.py.
FROZEN_ENCODERS = {
    'rvm': 'rvm_jax.models.encoders.vit:ViT',
    'dinov3': 'rvm_jax.models.encoders.image_vit:ImageEncoder',
    'dinov2': 'rvm_jax.models.encoders.image_vit:ImageEncoder',
    'siglip2': 'rvm_jax.models.encoders.image_vit:ImageEncoder',
    'mae': 'rvm_jax.models.encoders.image_vit:ImageEncoder',
    'clip': 'rvm_jax.models.encoders.image_vit:ImageEncoder',
}


class CoreEntry(NamedTuple):
    """Where a core is, and which keys of config.model it has besides those that all cores have."""

    path: str  # module:class
    keys: tuple[str, ...] = ()


CORES = {
    'rvmrnn': CoreEntry('rvm_jax.models.cores.rvmrnn:RVMRNN', ('core_mlp', 'output_norm', 'gate_bias', 'state_norm')),
    'mamba': CoreEntry('rvm_jax.models.cores.mamba:Mamba', ('core_dropout',)),
    'mambamix': CoreEntry('rvm_jax.models.cores.mambamix:MambaMix', ('core_dropout',)),
    'gmmix': CoreEntry('rvm_jax.models.cores.gmmix:GMMix', ('core_dropout',)),
    'self_attention': CoreEntry('rvm_jax.models.cores.self_attention:SelfAttention', ('core_mlp',)),
}
NO_CORE = 'identity'  # of an image encoder by itself; no config can name it
IDENTITY = 'rvm_jax.models.cores.identity:Identity'


def encoder_class(name: str) -> Any:
    """The class of the encoder that a config calls so."""
    return pkgutil.resolve_name({**FROZEN_ENCODERS, **ENCODERS}[name])


def core_class(name: str) -> Any:
    """The class of the core that a config calls so, or of no core. UserError for a plug-in that is not imported."""
    if plugins.is_name(name):
        return plugins.find(name, plugins.CORE)
    return pkgutil.resolve_name(IDENTITY if name == NO_CORE else CORES[name].path)


def core_keys(name: str) -> tuple[str, ...]:
    """Keys of config.model that a core has besides those that all cores have. UserError as in `core_class`."""
    return CORES[name].keys if name in CORES else core_class(name).keys

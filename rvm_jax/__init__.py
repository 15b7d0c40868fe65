"""Pre-train Recurrent Video Masked Autoencoders in JAX. Nothing heavy is imported before it is used."""

import importlib

_CALLS = {
    'from_pretrained': ('rvm_jax.pretrained', 'load'),
    'save_pretrained': ('rvm_jax.pretrained', 'save_pretrained'),
    'save_official': ('rvm_jax.pretrained', 'save_official'),
    'load_image_encoder': ('rvm_jax.conversion.image_encoders', 'load_image_encoder'),
}
__all__ = list(_CALLS)


def __getattr__(name):
    if name not in _CALLS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, attribute = _CALLS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__():
    return [*globals(), *_CALLS]

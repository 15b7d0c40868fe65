"""Pre-train Recurrent Video Masked Autoencoders in JAX. Nothing heavy is imported before it is used."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from rvm_jax.api import batches as batches
    from rvm_jax.api import features as features
    from rvm_jax.api import load_config as load_config
    from rvm_jax.api import train as train
    from rvm_jax.conversion.image_encoders import load_image_encoder as load_image_encoder
    from rvm_jax.pretrained import load as from_pretrained  # noqa: F401
    from rvm_jax.pretrained import save_official as save_official
    from rvm_jax.pretrained import save_pretrained as save_pretrained

    __version__: str

_CALLS = {
    'from_pretrained': ('rvm_jax.pretrained', 'load'),
    'save_pretrained': ('rvm_jax.pretrained', 'save_pretrained'),
    'save_official': ('rvm_jax.pretrained', 'save_official'),
    'load_image_encoder': ('rvm_jax.conversion.image_encoders', 'load_image_encoder'),
    'load_config': ('rvm_jax.api', 'load_config'),
    'train': ('rvm_jax.api', 'train'),
    'features': ('rvm_jax.api', 'features'),
    'batches': ('rvm_jax.api', 'batches'),
}
__all__ = list(_CALLS)


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from rvm_jax.version import version

        return version()
    if name not in _CALLS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, attribute = _CALLS[name]
    return getattr(importlib.import_module(module), attribute)


class _Package(types.ModuleType):
    """Keeps `rvm_jax.train` and `rvm_jax.features` the calls: the modules of the commands have these names too."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _CALLS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""Which version of this package runs, for what is written down beside results."""

import importlib.metadata


def version() -> str:
    """Such as '0.1.0'; 'not installed' in a checkout that is only on the path of Python."""
    try:
        return importlib.metadata.version('rvm_jax')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'

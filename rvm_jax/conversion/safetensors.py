"""Named arrays to and from the safetensors file format; names are joined by '.' there, as its users expect."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rvm_jax.errors import UserError
from rvm_jax.storage import files

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER = 8 * 2**20  # bytes
MAX_TENSORS = 20_000
FLOATS = ('F32', 'F16', 'BF16')  # as the format calls them


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: float32 array} of a .safetensors file; raises UserError if it is damaged or holds other numbers."""
    with _opened(path) as file:
        found = {key: file.get_slice(key).get_dtype() for key in file.keys()}
        other = [f'{key} ({dtype})' for key, dtype in found.items() if dtype != 'F32']
        if other:
            raise UserError(path, f'weights are float32, not so {", ".join(other[:4])}', 'convert them')
        return {key.replace('.', '/'): file.get_tensor(key) for key in found}


def read_header(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """{key: shape} of a .safetensors file, keys as they are in it; nothing else is read. UserError if it is damaged."""
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def read_tensors(path: str | os.PathLike, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """{key: float32 array} for some keys of a file in float32, float16 or bfloat16; UserError as in `read_header`."""
    import ml_dtypes  # noqa: F401 (teaches NumPy bfloat16)
    import numpy as np

    with _opened(path) as file:
        other = [f'{key} ({file.get_slice(key).get_dtype()})' for key in keys if not _is_float(file, key)]
        if other:
            raise UserError(path, f'weights are {", ".join(FLOATS)}, not so {", ".join(other[:4])}', 'convert them')
        return {key: file.get_tensor(key).astype(np.float32) for key in keys}


def _is_float(file, key):
    return file.get_slice(key).get_dtype() in FLOATS


@contextlib.contextmanager
def _opened(path):
    import safetensors

    try:
        _check_header(path)
        with safetensors.safe_open(path, 'numpy') as file:
            if len(file.keys()) > MAX_TENSORS:
                raise UserError(path, f'{len(file.keys()):,} arrays', 'such a file is not weights')
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(path, f'not a readable safetensors file ({error})', 'copy or download it again') from error


def _check_header(path):
    """Raise UserError before a header that is too long is taken in: it grows twentyfold when it is parsed."""
    files.check_regular(path)
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
    if length > MAX_HEADER:
        raise UserError(path, f'not a readable safetensors file (a header of {length:,} bytes)', 'download it again')


def safetensors_bytes(named: dict[str, np.ndarray]) -> bytes:
    """The file's contents for {name: array}."""
    import numpy as np
    import safetensors.numpy

    arrays = {name.replace('/', '.'): np.ascontiguousarray(array) for name, array in named.items()}
    return safetensors.numpy.save(arrays, metadata={'format': 'np'})

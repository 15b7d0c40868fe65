"""Reading other people's `.npz` files: no pickles, and sizes are checked before anything is allocated.

Other weights that are zips are looked through in the same way before their own library sees them.
"""

import contextlib
import io
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.storage import files

# NumPy parses a header as Python source, and a hostile one can make any part of that fail.
HEADER_ERRORS = (ValueError, KeyError, RecursionError, MemoryError, tokenize.TokenError)
# What a damaged zip makes zipfile raise, with ValueError for names that are not text.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, struct.error)
MAX_MEMBERS = 20_000
MAX_DIRECTORY = 4 * 2**20  # bytes of the list of members, which zipfile takes in before one can look
MAX_AXES = 5  # of the patch kernel, which has the most
MAX_INFLATION = 8  # weights hardly compress; a small file that declares far more than it holds is an attack


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{key: float32 array} of an .npz file; raises UserError for anything else, naming the member and the reason."""
    with open_zip(path) as archive:
        return {info.filename.removesuffix('.npy'): _read_member(path, archive, info) for info in archive.infolist()}


@contextlib.contextmanager
def open_zip(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    """The zip at a path. UserError if it is not a zip, or expands to more than weights of its size do."""
    try:
        files.check_regular(path)
        with _Guarded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            file.is_open = True
            _check_sizes(path, archive)
            yield archive
    except ZIP_ERRORS as error:
        kind = os.path.splitext(path)[1]
        raise UserError(path, f'not a readable {kind} file ({error})', 'download it again') from error


class _Guarded(io.BufferedReader):
    """A file whose first reads, those of the directory of a zip, must be small."""

    is_open = False

    def read(self, size=-1):
        if not self.is_open and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f'a directory of {size:,} bytes')
        return super().read(size)


def _check_sizes(path, archive):
    members = archive.infolist()
    for info in members:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(path, f'{info.filename} is encrypted or packed in an unusual way', 'save it anew')
    declared = sum(info.file_size for info in members)
    stored = os.path.getsize(path)  # the members may say that they hold more, or lie one over another
    if len(members) > MAX_MEMBERS or declared > MAX_INFLATION * stored + 2**20:
        raise UserError(
            path, f'{len(members)} arrays of {declared:,} bytes in a file of {stored:,}', 'such a file is not weights'
        )


def _read_member(path, archive, info):
    with archive.open(info) as member:
        try:
            version = np.lib.format.read_magic(member)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read_header[version](member)
        except HEADER_ERRORS as error:
            reason = str(error).partition('\n')[0]
            raise UserError(path, f'{info.filename} is not a plain array ({reason})', 'download it again') from error
        if dtype != np.float32 or fortran_order:
            raise UserError(path, f'{info.filename} holds {dtype}, not float32', 'released weights are float32')
        if len(shape) > MAX_AXES or any(length < 0 for length in shape):
            raise UserError(path, f'{info.filename} declares the shape {shape}', 'released weights have none like it')
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > info.file_size:
            raise UserError(
                path, f'{info.filename} declares {size:,} bytes, holds {info.file_size:,}', 'download it again'
            )
        data = member.read(size)
        if len(data) != size:
            raise UserError(path, f'{info.filename} ends early', 'download it again')
        return np.frombuffer(data, np.float32).reshape(shape)

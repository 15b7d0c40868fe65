"""MATLAB files (version 5), which keep each variable in a compressed piece that may say anything of its size."""

import io
import zlib

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.origin import MALFORMED, described, read_bytes

HEADER = 128  # bytes
COMPRESSED = 15  # kind of a piece
MAX_BYTES = 64 * 2**20  # unpacked; the largest table in use here, of ImageNet, has one


def read_mat(path, variable, **how):
    """A variable of a file; how is for scipy.io.loadmat. DataError if there is none such."""
    import scipy.io

    blob = read_bytes(path)
    if len(blob) > MAX_BYTES or _unpacked_size(blob) > MAX_BYTES:
        raise DataError(path, f'unpacks to more than {MAX_BYTES / 2**20:.0f} MB', 'download it again')
    try:
        return scipy.io.loadmat(io.BytesIO(blob), variable_names=[variable], **how)[variable]
    except (*MALFORMED, OSError, MemoryError, zlib.error, scipy.io.matlab.MatReadError) as error:
        raise DataError(path, f'cannot be read as MATLAB ({described(error)})', 'download it again') from error


def _unpacked_size(blob):
    """Bytes of all compressed pieces, or a little more than MAX_BYTES."""
    total, place = 0, HEADER
    order = 'big' if blob[HEADER - 2 : HEADER] == b'MI' else 'little'
    while place + 8 <= len(blob) and total <= MAX_BYTES:
        kind, size = (int.from_bytes(blob[start : start + 4], order) for start in (place, place + 4))
        if kind == COMPRESSED:
            total += _bounded(blob[place + 8 : place + 8 + size])
        place += 8 + size
    return total


def _bounded(piece):
    unpacker = zlib.decompressobj()
    try:
        return len(unpacker.decompress(piece, MAX_BYTES + 1))
    except zlib.error:
        return 0  # scipy will say so

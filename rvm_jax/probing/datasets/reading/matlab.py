"""Variables of MATLAB files, version 5 to 7: arrays of numbers, texts, and structs of these.

scipy.io.loadmat unpacks everything in a file, which may be a thousand times its size, and one wrong number in a file
can make it read foreign memory (SciPy 1.17.1: the process crashes). Datasets only need a small part of the format.
"""

import math
import zlib
from typing import Any, Literal

import numpy as np

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.dataset_files import MALFORMED, described, read_bytes

HEADER = 128  # bytes
MAX_BYTES = 64 * 2**20  # unpacked; tables in use have one megabyte
MATRIX, COMPRESSED = 14, 15  # kinds of an element
NUMBERS = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}
ENCODINGS = {1: 'latin-1', 2: 'latin-1', 4: 'utf-16', 16: 'utf-8', 17: 'utf-16', 18: 'utf-32'}
STRUCT, TEXT, ARRAYS = 2, 4, range(6, 16)  # classes of a matrix


def read_mat(path: str, variable: str) -> Any:
    """A variable: numbers as an array, text as a str, a struct array as a list of dicts. DataError if it is missing."""
    blob = read_bytes(path)
    try:
        return _Reader(blob).variables()[variable]
    except (*MALFORMED, StopIteration, zlib.error) as error:
        reason = f'does not have a readable {variable} ({described(error)})'
        raise DataError(path, reason, 'download it again') from error


class _Reader:
    def __init__(self, blob):
        if len(blob) < HEADER or blob[126:128] not in (b'IM', b'MI'):
            raise ValueError('it is not a MATLAB file of version 5 to 7')
        self._blob = blob
        self._order: Literal['little', 'big'] = 'big' if blob[126:128] == b'MI' else 'little'
        self._sign = {'little': '<', 'big': '>'}[self._order]

    def variables(self) -> dict[str, Any]:
        """{name: value} of all variables of a supported kind; None for others."""
        found, room = {}, MAX_BYTES
        for kind, content in self._elements(memoryview(self._blob)[HEADER:]):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(content, room + 1)
                room -= len(unpacked)
                if room < 0:
                    raise ValueError(f'it unpacks to more than {MAX_BYTES / 2**20:.0f} MB')
                kind, content = next(self._elements(memoryview(unpacked)))
            if kind == MATRIX:
                name, value = self._matrix(content)
                found[name] = value
        return found

    def _elements(self, content):
        """Yield (kind, content) of a sequence of elements."""
        while len(content) >= 8:
            kind, size = self._number(content[:4]), self._number(content[4:8])
            start, step = 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
            if kind >> 16:  # a small element: its size is in the upper half
                kind, size, start, step = kind & 0xFFFF, kind >> 16, 4, 8
            if start + size > len(content) or (step == 8 and size > 4 and start == 4):
                raise ValueError('it was cut off')
            yield kind, content[start : start + size]
            content = content[step:]

    def _matrix(self, content):
        """(name, value); None for kinds that are not needed here."""
        if not content:
            return '', None
        parts = self._elements(content)
        kind = self._number(next(parts)[1][:4]) & 0xFF
        shape = self._values(*next(parts)).tolist()
        name = bytes(next(parts)[1]).decode('latin-1')
        if min(shape) < 0:
            raise ValueError('an array has a side below 0')
        if kind in ARRAYS:
            return name, self._values(*next(parts)).reshape(shape, order='F')
        if kind == TEXT:
            kind, characters = next(parts, (2, b''))
            encoding = ENCODINGS[kind]
            if encoding in ('utf-16', 'utf-32'):
                encoding += {'little': '-le', 'big': '-be'}[self._order]
            return name, bytes(characters).decode(encoding)
        return name, self._structs(parts, math.prod(shape)) if kind == STRUCT else None

    def _structs(self, parts, count):
        width, names = int(self._values(*next(parts))[0]), bytes(next(parts)[1])
        keys = [names[i : i + width].split(b'\0')[0].decode('latin-1') for i in range(0, len(names), width)]
        if not keys:
            raise ValueError('a struct does not have a field')
        return [{key: self._matrix(_content(next(parts)))[1] for key in keys} for _ in range(count)]

    def _values(self, kind, content):
        return np.frombuffer(content, self._sign + NUMBERS[kind])

    def _number(self, content):
        return int.from_bytes(content, self._order)


def _content(element):
    kind, content = element
    if kind != MATRIX:
        raise ValueError('a field is not a matrix')
    return content

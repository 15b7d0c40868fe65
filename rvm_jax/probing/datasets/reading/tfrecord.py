"""TFRecord files, without TensorFlow: where records are, and one of them.

A record is its length (8 bytes), a checksum of the length (4), the bytes, and a checksum of them (4), little-endian.
The first checksum tells a TFRecord from another file. The second is not checked: damage shows when the record is
decoded.
"""

import os
import struct

import google_crc32c

from rvm_jax.errors import DataError

HEADER, FOOTER = 12, 4  # bytes
FIX = 'download it again'


def record_places(path):
    """[(offset, length), ...] of the bytes of every record; reads the headers only.

    DataError if this is no TFRecord file, or it was cut off.
    """
    places = []
    try:
        with open(path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            place = 0
            while place < size:
                file.seek(place)
                length = _length(path, file.read(HEADER))
                places.append((place + HEADER, length))
                place += HEADER + length + FOOTER
    except FileNotFoundError as error:
        raise DataError(path, 'is not there', FIX) from error
    if place != size:
        raise DataError(path, 'was cut off', FIX)
    return places


def read_record(path, place):
    """The bytes of the record at one of record_places."""
    offset, length = place
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(length)


def frame_record(blob):
    """A record as it stands in a file, without a checksum of its bytes (0)."""
    head = struct.pack('<Q', len(blob))
    return head + struct.pack('<I', _masked_crc(head)) + blob + bytes(FOOTER)


def _length(path, header):
    if len(header) < HEADER:
        raise DataError(path, 'was cut off', FIX)
    length, checksum = struct.unpack('<QI', header)
    if _masked_crc(header[:8]) != checksum:
        raise DataError(path, 'is not a TFRecord file, or is damaged', FIX)
    return length


def _masked_crc(blob):
    """CRC-32C, turned by 15 bits, plus a constant: what TFRecord calls masked."""
    crc = google_crc32c.value(blob)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

"""TFRecord files without TensorFlow: the places of records, one record, and the protocol buffers in it.

A record is its length (8 bytes), a checksum of the length (4), the bytes, and a checksum of them (4), little-endian.
The first checksum shows that a file is a TFRecord file. The second one is not checked: a damaged record fails when it
is decoded.
"""

import functools
import os
import struct
from collections.abc import Mapping
from typing import Any

import google_crc32c

from rvm_jax.errors import DataError

HEADER, FOOTER = 12, 4  # bytes
FIX = 'download it again'


def record_places(path: str) -> list[tuple[int, int]]:
    """[(offset, length), ...] of the bytes of every record; it only reads the headers.

    DataError if the file is not a TFRecord file, or was cut off.
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


def read_record(path: str, place: tuple[int, int]) -> bytes:
    """The bytes of the record at one of record_places."""
    offset, length = place
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(length)


def frame_record(blob: bytes) -> bytes:
    """A record as it is in a file, with 0 for the checksum of its bytes."""
    head = struct.pack('<Q', len(blob))
    return head + struct.pack('<I', _masked_crc(head)) + blob + bytes(FOOTER)


def message_classes(package: str, fields: Mapping[str, Mapping[str, tuple[int, str]]]) -> dict[str, Any]:
    """{name: class} of protocol buffer messages whose fields are {name: {field: (number, type)}}.

    type is a scalar of protocol buffers ('string', 'bytes', 'float', 'double', 'int32' ...; enums are int32) or the
    name of another message of the table, with 'repeated ' in front if there may be several. Only fields that are used
    need to be in the table: others are skipped when a message is read.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f'{package}.proto', package=package, syntax='proto2')
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, (number, kind) in members.items():
            _add_field(message.field.add(name=member, number=number), package, kind, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = functools.partial(pool.FindMessageTypeByName)
    return {name: message_factory.GetMessageClass(find(f'{package}.{name}')) for name in fields}


def _add_field(field, package, kind, messages):
    is_repeated = kind.startswith('repeated ')
    kind = kind.removeprefix('repeated ')
    field.label = field.LABEL_REPEATED if is_repeated else field.LABEL_OPTIONAL
    if kind in messages:
        field.type, field.type_name = field.TYPE_MESSAGE, f'.{package}.{kind}'
    else:
        field.type = getattr(field, f'TYPE_{kind.upper()}')


def _length(path, header):
    if len(header) < HEADER:
        raise DataError(path, 'was cut off', FIX)
    length, checksum = struct.unpack('<QI', header)
    if _masked_crc(header[:8]) != checksum:
        raise DataError(path, 'is not a TFRecord file, or is damaged', FIX)
    return length


def _masked_crc(blob):
    """CRC-32C, rotated by 15 bits, plus a constant: what TFRecord calls masked."""
    crc = google_crc32c.value(blob)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

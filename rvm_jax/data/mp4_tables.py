"""The tables of MP4 and MOV files, looked at before FFmpeg sees them.

FFmpeg keeps up to 64 bytes for each sample that they declare, whether the file has it or not, and a dozen bytes can
declare two billion samples: one size for all (stsz), no field for each (trun), all of them in every edit (elst). A
compressed header (cmov) unpacks to a thousand times its size. Such a file of 2 KB takes all memory that there is.
"""

import collections
import os
import re
import struct

from rvm_jax.errors import DataError

MAX_SAMPLES = 5_000_000  # of a file, sound too: two days at 29 a second; 320 MB of FFmpeg's memory
MAX_HEADER = 128 * 2**20  # bytes of one box of tables
MAX_BOXES = 1_000_000  # at the top of a file: two days in fragments of a third of a second
# What FFmpeg looks into, at the top of a file as well; a 'free' box that starts as a header does counts as one.
OPENED = set(
    b'moov moof trak mdia minf stbl traf edts udta meta mvex dinf gmhd ilst wave sinf schi cmov trun stsz stz2'.split()
)
UNFINISHED = {b'free', b'hoov'}
TABLES = re.compile(rb'cmov|trak|trun|stsz|stz2|stts|stsc|stco|co64|elst|hdlr')
CHUNK = 1024  # samples of plain sound that FFmpeg takes for one
FIX = 'remove or re-encode this video'


def check_tables(path, number):
    """DataError if the file of this descriptor is an MP4 whose tables would fill the memory.

    OSError if it cannot be read. A file of another format has no such boxes.
    """
    samples = 0
    for header in _headers(path, number):
        tracks = _tracks(header)
        if any('cmov' in track for track in tracks):
            raise DataError(path, 'has a compressed header', FIX)
        samples += sum(map(_samples, tracks))
        if samples > MAX_SAMPLES:
            raise DataError(path, f'declares {samples:,} frames, more than {MAX_SAMPLES:,}', FIX)


def _headers(path, number):
    """Yield the bytes of each box of tables at the top of a file."""
    place, size = 0, os.fstat(number).st_size
    for _ in range(MAX_BOXES):
        head = os.pread(number, 24, place)
        if len(head) < 8:
            return
        length, kind = struct.unpack('>I4s', head[:8])
        start = 8
        if length == 1 and len(head) >= 16:
            length, start = int.from_bytes(head[8:16], 'big'), 16
        end = size if length == 0 else min(place + length, size)
        if end < place + start:
            return
        if kind in OPENED or (kind in UNFINISHED and head[start + 4 : start + 8] in (b'mvhd', b'cmov')):
            if end - place > MAX_HEADER:
                raise DataError(path, f'has a header of {(end - place) / 2**20:,.0f} MB', FIX)
            yield os.pread(number, end - place, place)
        place = end
    raise DataError(path, f'has more than {MAX_BOXES:,} boxes', FIX)


def _tracks(header):
    """[{kind of table: [its content and what follows]}] of each track; what belongs to none comes first."""
    tracks = [collections.defaultdict(list)]
    for match in TABLES.finditer(header):
        start, kind = match.start() - 4, match[0].decode()
        length = int.from_bytes(header[start : start + 4], 'big')
        if length > 1 and not 8 <= length <= len(header) - start:
            continue  # these letters are no name of a box
        if kind == 'trak':
            tracks.append(collections.defaultdict(list))
        tracks[-1][kind].append(memoryview(header)[start + (16 if length == 1 else 8) :])
    return tracks


def _samples(track):
    """How many entries FFmpeg makes for a track."""
    edits = max(1, sum(min(_number(table, 4), len(table) // 12) for table in track['elst']))
    if _is_plain_sound(track):
        chunks = sum(min(_number(table, 4), len(table) // 4) for table in track['stco'] + track['co64'])
        longest = max((_number(table, 12 + 12 * i) for table in track['stsc'] for i in range(_rows(table))), default=0)
        samples = chunks * (longest // CHUNK + 1)
    else:
        samples = sum(_number(table, 8) for table in track['stsz'] + track['stz2'])
    return samples * edits + sum(_number(table, 4) for table in track['trun'])


def _is_plain_sound(track):
    """Whether each sample is one tick long, of which FFmpeg takes many as one."""
    kinds = {bytes(table[8:12]) for table in track['hdlr']}
    times = [(_number(table, 4), _number(table, 12)) for table in track['stts']]
    return b'soun' in kinds and b'vide' not in kinds and set(times) == {(1, 1)}


def _rows(table):
    """Entries of a table of chunks that are there."""
    return min(_number(table, 4), (len(table) - 8) // 12)


def _number(table, place):
    return int.from_bytes(table[place : place + 4], 'big')

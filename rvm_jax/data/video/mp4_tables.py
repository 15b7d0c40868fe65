"""The tables of MP4 and MOV files, looked at before FFmpeg sees them.

FFmpeg keeps 36 bytes for each sample that they declare, twice while it applies edits, whether the file has the sample
or not, and a dozen bytes can declare two billion: one size for all (stsz), no field for each (trun), all of them in
every edit (elst). A compressed header (cmov) unpacks to a thousand times its size. Such a file of 2 KB takes all memory
that there is.
"""

import collections
import dataclasses
import functools
import os
import re
import struct

import numpy as np

from rvm_jax.errors import DataError

MAX_SAMPLES = 20_000_000  # of a file, sound too: 48 hours at 60 a second and AAC at 47; 1.4 GB of FFmpeg's memory
FEW_SAMPLES = 2_000_000  # that a file of any size may declare; more need a byte each, and no real one takes less
MAX_HEADER = 128 * 2**20  # bytes of one box of tables
MAX_BOXES = 1_000_000  # at the top of a file: two days in fragments of a third of a second
BLOCK = 4096  # bytes read at once: most fragments' tables, and where the next box begins
REMEMBERED = 65_536  # files of each process: some 30 MB
# What FFmpeg looks into, at the top of a file as well; a 'free' box that starts as a header does counts as one.
OPENED = set(
    b'moov moof trak mdia minf stbl traf edts udta meta mvex dinf gmhd ilst wave sinf schi tref cmov '
    b'trun stsz stz2'.split()
)
UNFINISHED = {b'free', b'hoov'}
TABLES = re.compile(rb'cmov|mvhd|trak|mdhd|trun|stsz|stz2|stts|stss|ctts|stsc|stco|co64|elst|hdlr')
CHUNK = 1024  # samples of plain sound that FFmpeg takes for one
EXACT = 2**52  # ticks, which are counted in floats of 53 bits
LAST_DECODED, LAST_SHOWN = 32, 8  # frames at the end that are looked at
FIX = 'remove or re-encode this video'


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """A file as it was: what is remembered of one that passed."""

    path: str
    size: int
    changed_ns: int
    number: int = dataclasses.field(compare=False)  # descriptor


_Found = collections.namedtuple('_Found', 'has_jumps has_ragged_end')


def check_tables(path: str | os.PathLike, number: int) -> None:
    """DataError if the file of this descriptor is an MP4 whose tables would fill the memory.

    OSError if it cannot be read. A file of another format has no such boxes. One that passed is not read again.
    """
    _check(_file(path, number))


def has_jumps(path: str | os.PathLike, number: int) -> bool:
    """Whether an MP4 shows several parts of a video, one after the other. Errors as in `check_tables`."""
    return _check(_file(path, number)).has_jumps


def has_ragged_end(path: str | os.PathLike, number: int) -> bool:
    """Whether an MP4 of constant frame rate lacks some of its last frames: cut in the order of decoding."""
    return _check(_file(path, number)).has_ragged_end


def _file(path, number):
    status = os.fstat(number)
    return _File(os.fspath(path), status.st_size, status.st_mtime_ns, number)


@functools.lru_cache(REMEMBERED)
def _check(file):
    """The _Found of a file; DataError as in `check_tables`."""
    samples, most = 0, min(MAX_SAMPLES, max(FEW_SAMPLES, file.size))
    has_jumps = has_ragged_end = False
    for header in _headers(file):
        movie, *tracks = _tracks(header)
        if any('cmov' in track for track in (movie, *tracks)):
            raise DataError(file.path, 'has a compressed header', FIX)
        samples += _samples(movie, None) + sum(_samples(track, _scale(movie['mvhd'])) for track in tracks)
        if samples > most:
            reason = f'declares {samples:,} frames, more than {most:,} in {file.size:,} bytes'
            raise DataError(file.path, reason, FIX)
        has_jumps = has_jumps or any(_shown_parts(file, track) > 1 for track in tracks)
        has_ragged_end = has_ragged_end or any(_is_ragged(track) for track in tracks)
    return _Found(has_jumps, has_ragged_end)


def _shown_parts(file, track):
    """Edits of a video's track that show something; 0 for sound. DataError if others leave a gap between them."""
    if not any(table[8:12] == b'vide' for table in track['hdlr']):
        return 0
    edits = np.concatenate([_edits(table) for table in track['elst']]) if track['elst'] else np.empty((0, 2))
    shows = edits[:, 1] != -1
    if (np.logical_or.accumulate(shows) & ~shows & (edits[:, 0] > 0)).any():
        reason = 'shows nothing for a while after it has begun, where FFmpeg shows its first frames'
        raise DataError(file.path, reason, FIX)
    return int(shows.sum())


def _is_ragged(track):
    """Whether a video's last frames, each shown later than decoded by what its track says, are not a frame apart."""
    if not any(table[8:12] == b'vide' for table in track['hdlr']) or len(track['ctts']) != 1 or len(track['stts']) != 1:
        return False
    frame = _rows(track['stts'][0], 2)[:1, 1].max(initial=0)
    rows = _rows(track['ctts'][0], 2)[-LAST_DECODED:].astype(np.uint32)
    delays = np.repeat(rows[:, 1].astype(np.int32), np.minimum(rows[:, 0], LAST_DECODED))[-LAST_DECODED:]
    shown = np.sort(delays + np.arange(len(delays)) * frame)[-LAST_SHOWN:]
    return bool((np.abs(np.diff(shown) - frame) > 1).any())


def _headers(file):
    """Yield the bytes of each box of tables at the top of a file."""
    place, block, block_place = 0, b'', 0
    for _ in range(MAX_BOXES):
        if place + 24 > block_place + len(block):
            block, block_place = os.pread(file.number, BLOCK, place), place
        head = block[place - block_place :][:24]
        if len(head) < 8:
            return
        length, kind = struct.unpack('>I4s', head[:8])
        start = 8
        if length == 1 and len(head) >= 16:
            length, start = int.from_bytes(head[8:16], 'big'), 16
        end = file.size if length == 0 else min(place + length, file.size)
        if end < place + start:
            return
        if kind in OPENED or (kind in UNFINISHED and head[start + 4 : start + 8] in (b'mvhd', b'cmov')):
            if end - place > MAX_HEADER:
                raise DataError(file.path, f'has a header of {(end - place) / 2**20:,.0f} MB', FIX)
            if end > block_place + len(block):
                yield os.pread(file.number, end - place, place)
            else:
                yield block[place - block_place : end - block_place]
        place = end
    raise DataError(file.path, f'has more than {MAX_BOXES:,} boxes', FIX)


def _tracks(header):
    """[{kind of table: [its content and, save for edits, what follows]}]: before the first track, and of each."""
    tracks: list[collections.defaultdict] = [collections.defaultdict(list)]
    cut = None
    for match in TABLES.finditer(header):
        start, kind = match.start() - 4, match[0].decode()
        length = int.from_bytes(header[start : start + 4], 'big')
        if length > 1 and not 8 <= length <= len(header) - start:
            cut = _cut_boxes(header) if cut is None else cut
            if start not in cut:
                continue  # these letters are no name of a box
        if kind == 'trak':
            tracks.append(collections.defaultdict(list))
        end = start + length if kind == 'elst' and length > 1 else None  # FFmpeg counts edits by the box's length
        tracks[-1][kind].append(memoryview(header)[start + (16 if length == 1 else 8) : end])
    return tracks


def _cut_boxes(header):
    """Places of the tables that are longer than what they are in, which FFmpeg reads as far as they go."""
    found, todo = set(), [(0, len(header))]
    while todo:
        place, end = todo.pop()
        while place + 8 <= end:
            length, kind = struct.unpack_from('>I4s', header, place)
            start = place + 8
            if length == 1:
                length, start = int.from_bytes(header[place + 8 : place + 16], 'big'), place + 16
            stop = end if length == 0 else min(place + length, end)
            if stop < start:
                break
            if TABLES.fullmatch(kind):
                found.add(place)
            if kind == b'stsd':  # descriptions of codecs, in which boxes begin anywhere
                found.update(match.start() - 4 for match in TABLES.finditer(header, start, stop))
            elif kind in OPENED:
                todo.append((start + (4 if kind == b'meta' else 0), stop))
            place = stop
    return found


def _samples(track, movie_scale):
    """How many entries FFmpeg makes for a track, or a few more; movie_scale is the movie's ticks a second, or None."""
    if _is_plain_sound(track):
        samples, runs, gap = _sound_runs(track)
    else:
        samples = sum(_number(table, 8) for table in track['stsz'] + track['stz2'])
        runs, gap = _time_runs(track['stts'], samples), _keyframe_gap(track['stss'], samples)
    if track['elst']:
        samples = _edited(track, movie_scale, samples, runs, gap)
    return samples + sum(_number(table, 4) for table in track['trun'])


def _edited(track, movie_scale, samples, runs, gap):
    """Entries of all edits: each has those of its time, and on either side as many as a keyframe is away (gap).

    runs: (entries, ticks of each) in rows. Where the tables do not say when the entries are, each edit has them all.
    """
    edits, scale = np.concatenate([_edits(table) for table in track['elst']]), _scale(track['mdhd'])
    if len(edits) < 2:
        return samples
    times, numbers = (np.insert(np.cumsum(column), 0, 0) for column in (runs.prod(1), runs[:, 0]))
    if not (scale and movie_scale and 0 < times[-1] < EXACT):
        return samples * len(edits)
    # An edit goes by when frames are shown, its search by when they are decoded, and for sound by a second earlier.
    margin = 2 * max(map(_longest_delay, track['ctts']), default=0) + scale + 0.5
    starts, ends = edits[:, 1], edits[:, 1] + edits[:, 0] * (scale / movie_scale)
    shown = np.interp(ends + margin, times, numbers) - np.interp(starts - margin, times, numbers)
    made = int(np.clip(shown + 2 * gap + 2, 0, samples).sum())
    return max(made, samples)  # where no edit shows anything, FFmpeg ignores all


def _edits(table):
    """(n, 2) float: duration and start of each edit; FFmpeg takes the start of an empty one, -1, for a time."""
    long = table[:1] == b'\1'
    kind = np.dtype([('duration', '>u8' if long else '>u4'), ('start', '>i8' if long else '>i4'), ('rate', '>u4')])
    count = max(0, len(table) - 8) // kind.itemsize
    rows = np.frombuffer(table, kind, count, 8) if count else np.empty(0, kind)
    return np.stack([rows['duration'], rows['start']], 1).astype(float)


def _time_runs(tables, samples):
    """(entries, ticks of each) in rows, the last as often as samples are left; ticks of 0 where that is not clear."""
    rows = _rows(tables[0], 2) if len(tables) == 1 else np.empty((0, 2))
    if not len(rows) or rows[:, 0].min() == 0 or rows[:, 1].max() >= 2**31:
        return np.array([[samples, 0.0]])
    return np.append(rows, [[max(samples - rows[:, 0].sum(), 0), rows[-1, 1]]], axis=0)


def _sound_runs(track):
    """(entries, their runs as above, most entries of a chunk) of plain sound, whose chunks FFmpeg takes in pieces."""
    chunks = sum(min(_number(table, 4), len(table) // 4) for table in track['stco'] + track['co64'])
    rows = _rows(track['stsc'][0], 3) if len(track['stsc']) == 1 else np.empty((0, 3))
    counts = np.diff(rows[:, 0], append=chunks + 1)  # chunks like the one of each row
    entries = rows[:, 1] // CHUNK + 1
    longest = int(entries.max(initial=1))
    if not len(rows) or rows[0, 0] != 1 or counts.min() < 0:
        return chunks * longest, np.array([[chunks * longest, 0.0]]), longest
    runs = np.stack([counts * entries, rows[:, 1] / entries], axis=1)
    return int(runs[:, 0].sum()), runs, longest


def _keyframe_gap(tables, samples):
    """Samples from one keyframe to the next at most; without a table each is one."""
    if not tables:
        return 1
    numbers = np.concatenate([[0], _rows(tables[0], 1)[:, 0], [samples + 1]])
    gaps = np.diff(numbers)
    is_clear = len(tables) == 1 and (gaps[1:] > 0).all()  # FFmpeg stops at one that is out of order
    return gaps.max() if is_clear else samples


def _longest_delay(table):
    """Ticks between decoding and showing a frame, of either sign."""
    return np.abs(_rows(table, 2)[:, 1].astype(np.uint32).astype(np.int32).astype(float)).max(initial=0)


def _is_plain_sound(track):
    """Whether each sample is one tick long, and one row says so: then alone does FFmpeg take many as one."""
    kinds = {bytes(table[8:12]) for table in track['hdlr']}
    times = [(_number(table, 4), _number(table, 12)) for table in track['stts']]
    return b'soun' in kinds and b'vide' not in kinds and set(times) == {(1, 1)}


def _scale(tables):
    """Ticks a second of a movie or track, None where that is not clear."""
    if len(tables) != 1:
        return None
    scale = _number(tables[0], 20 if tables[0][:1] == b'\1' else 12)
    return scale if 0 < scale < 2**31 else None


def _rows(table, columns):
    """The rows of a table that are there, (n, columns) float."""
    count = min(_number(table, 4), max(0, len(table) - 8) // (4 * columns))
    numbers = np.frombuffer(table, '>u4', count * columns, 8) if count else np.empty(0)
    return numbers.reshape(count, columns).astype(float)


def _number(table, place):
    return int.from_bytes(table[place : place + 4], 'big')

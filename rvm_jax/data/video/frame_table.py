"""When each picture is shown, for files that do not say it of every frame, or that cannot be searched by time.

A transport stream may be two recordings joined, whose clocks each start at their own time, or begin inside a group of
pictures. AVI, ASF and Matroska's copy of AVI hold the times of decoding alone. A program stream has a time every now
and then. So the file is read once from its start, as FFmpeg's own program reads it, and what each packet shows is
written down by the packet's number. Numbers, and not what a container says after a search, tell which frame is which.

Where every packet has its own time of showing, and the clock runs on, the packets are not decoded for it.
"""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence

import av
import numpy as np

from rvm_jax.data.video.container import FIX
from rvm_jax.data.video.packets import PacketReader, before_whole, from_keyframe, tick_seconds
from rvm_jax.errors import DataError

HEAD = 24  # packets: no sound encoder puts fewer between two B-frames from the start of a video on
REMEMBERED = 128  # files of each process: some 10 MB
LONGEST_GAP_S = 10.0  # in a stream that may be joined of several: a longer one is another clock, as in FFmpeg's program
LONGEST_BACK_S = 0.5  # by which times go back because they were given to the wrong pictures, and not by a new clock
CLOCKS = {'mpegts': 0.0, 'mov': 0.0}  # the same for formats that state the times
FEW = 2, 0.1  # times that go back, and of all: more than that are mixed up, and no clock began again
JOINED = ('mpegts', 'mpeg')  # formats of which files may be put one after another
DECODING_TIMES = ('avi', 'asf')  # formats that have these alone
NO_TAG = '\0\0\0\0'
STATED = ('mpegts', 'flv', 'ogg')  # formats whose packets may all have their own time of showing
BYTES = ('mpegts', 'flv', 'ogg')  # formats that can be read from the first byte of any packet
_tables: collections.OrderedDict = collections.OrderedDict()
_Row = collections.namedtuple('_Row', 'pts dts place size is_keyframe')


@dataclasses.dataclass(frozen=True)
class FrameTable:
    """What is known of a file that was read once.

    time_s: seconds from the first picture, by the number of the packet that holds the picture; NaN where a packet
    shows none. size: bytes of each packet. keyframes: numbers of packets at which decoding can start, in order.
    places: (byte, timestamp) of each keyframe, None for what it does not have; last_s: when the last picture is shown.
    """

    time_s: np.ndarray
    size: np.ndarray
    keyframes: np.ndarray
    places: list[tuple[int | None, int | None]]
    last_s: float

    def keyframe_before(self, time_s: float) -> int | None:
        """Index of the last keyframe that is shown at this time or earlier, save the first; None: start there."""
        found = np.flatnonzero(self.time_s[self.keyframes] <= time_s)
        return int(found[-1]) if len(found) and found[-1] > 0 else None

    def search(self, reader: PacketReader, keyframe: int) -> tuple[int, Iterator[av.Packet]] | None:
        """(number of the first, packets) from this keyframe or one before it on; None if the search did not lead there.

        A keyframe is known again by its byte and size, if no other has the same.
        """
        number = self.keyframes[keyframe]
        place, timestamp = self.places[keyframe]
        by_bytes = any(name in reader.container.format.name.split(',') for name in BYTES)
        target = place if by_bytes else timestamp
        if target is None or place is None or not (reader.seek_byte if by_bytes else reader.seek)(target):
            return None
        packets = from_keyframe(reader.packets())
        first = next(packets)
        found = self._numbers.get((first.pos, first.size), len(self.size))
        return (found, itertools.chain([first], packets)) if found <= number else None

    @functools.cached_property
    def usual_s(self) -> float:
        """Seconds from a picture to the next; 0 if there is one alone."""
        steps_s = np.diff(np.sort(self.time_s[np.isfinite(self.time_s)]))
        return float(np.median(steps_s)) if len(steps_s) else 0.0

    @functools.cached_property
    def _numbers(self):
        keys = [(place, int(self.size[n])) for (place, _), n in zip(self.places, self.keyframes, strict=True)]
        seen = collections.Counter(keys)  # packets that lie in one of the container's have the same byte
        return {
            key: int(n) for key, n in zip(keys, self.keyframes, strict=True) if key[0] is not None and seen[key] == 1
        }


def holds_decoding_times(reader: PacketReader) -> bool:
    """Whether the file has the times of decoding alone: AVI, ASF, and Matroska where it says what AVI says."""
    formats = reader.container.format.name.split(',')
    is_copy_of_avi = 'matroska' in formats and reader.stream.codec_context.codec_tag != NO_TAG
    return is_copy_of_avi or any(name in DECODING_TIMES for name in formats)


def table_of(reader: PacketReader) -> FrameTable:
    """The FrameTable of a file: remembered, or made by reading the file to its end.

    DataError if no picture can be decoded, or none has a time.
    """
    status = os.stat(reader.path)
    key = (reader.path, status.st_size, status.st_mtime_ns)
    if key not in _tables:
        _tables[key] = _make(reader)
        if len(_tables) > REMEMBERED:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


def _make(reader):
    if any(name in reader.container.format.name.split(',') for name in STATED):
        reader.restart()
        table = _from_packets(reader)
        if table is not None:
            return table
    reader.restart()
    return _from_frames(reader)


def _from_packets(reader):
    """The table by what the packets say; None where they do not say it all."""
    rows = [_row(packet) for packet in from_keyframe(reader.packets()) if packet.size]
    if not rows or any(row.pts is None or row.dts is None for row in rows):
        return None
    pts, dts = (np.array([getattr(row, name) for row in rows], np.int64) for name in ('pts', 'dts'))
    steps_s = np.diff(dts) * tick_seconds(reader.stream)
    if (
        (steps_s <= 0).any()
        or (steps_s > LONGEST_GAP_S).any()
        or (pts < dts).any()
        or len(set(pts.tolist())) < len(pts)
    ):
        return None
    may_be_made_up = len(set((pts - dts).tolist())) == 1  # all of them, from the times of decoding
    reader.restart()
    first, *others = _first_pictures(reader, HEAD if may_be_made_up else 1)
    if (np.diff(pts[[first, *others]]) < 0).any():
        return None
    times_s = (pts - pts[first]) * tick_seconds(reader.stream)
    times_s[times_s < 0] = np.nan  # what is shown before the first picture cannot be decoded
    return _table(rows, times_s)


def _first_pictures(reader, count):
    """Numbers of the packets of the first whole pictures, in their order."""
    is_too_early = before_whole(reader.stream.codec_context.name)
    whole = itertools.dropwhile(lambda picture: is_too_early(picture[1]), _decoded(reader, rows=[]))
    numbers = [number for number, _, _ in itertools.islice(whole, count) if number is not None]
    if not numbers:
        raise DataError(reader.path, 'has no frame that can be decoded', FIX)
    return numbers


def _from_frames(reader):
    """The table by decoding every frame."""
    rows: list[_Row] = []
    is_too_early = before_whole(reader.stream.codec_context.name)
    shown = [
        (number, output_dts, is_too_early(frame))
        for number, frame, output_dts in _decoded(reader, rows)
        if number is not None
    ]
    shown = list(itertools.dropwhile(lambda picture: picture[-1], shown))
    if not shown:
        raise DataError(reader.path, 'has no frame that can be decoded', FIX)
    numbers, output_dts, _ = zip(*shown, strict=True)
    stamps = output_dts if holds_decoding_times(reader) else real_stamps([rows[n].pts for n in numbers], output_dts)
    if not any(stamp is not None for stamp in stamps):  # so few that the decoder gave all of them at the end
        stamps = sorted(rows[n].dts for n in numbers if rows[n].dts is not None)
    if not stamps or len(stamps) < len(numbers):
        raise DataError(reader.path, 'has no frame with a timestamp', FIX)
    rate, tick_s = float(reader.stream.average_rate or 0), tick_seconds(reader.stream)
    formats = reader.container.format.name.split(',')
    may_be_joined = any(name in JOINED for name in formats)
    longest_s = LONGEST_GAP_S if may_be_joined else np.inf
    seconds = [None if stamp is None else stamp * tick_s for stamp in stamps]
    clocks = [] if _are_mixed(stamps) else [CLOCKS[name] for name in formats if name in CLOCKS]
    back_s = clocks[0] if clocks else LONGEST_BACK_S
    seconds, starts = in_order(seconds, back_s, longest_s)
    shown_s = running_times(seconds, 1 / rate if rate else _usual_step(rows) * tick_s, longest_s)
    times_s = np.full(len(rows), np.nan)
    times_s[list(numbers)] = _even(shown_s, starts, rate) if may_be_joined and rate else shown_s
    return _table(rows, times_s)


def in_order(stamps_s: Sequence[float | None], back_s: float, longest_s: float) -> tuple[list[float | None], list[int]]:
    """(times in order, places where another clock begins) of pictures in their order.

    Times that go back by less than back_s are not another clock: pictures were given each other's times.
    """
    ordered = list(stamps_s)
    known = [place for place, stamp in enumerate(stamps_s) if stamp is not None]
    steps_s = np.diff([ordered[place] for place in known])
    cuts = 1 + np.flatnonzero((steps_s <= -back_s) & (steps_s < 0) | (steps_s > longest_s))
    for clock in np.split(known, cuts):
        for place, stamp in zip(clock, sorted(ordered[place] for place in clock), strict=True):
            ordered[place] = stamp
    return ordered, [known[cut] for cut in cuts]


def _even(times_s, starts, rate):
    """Times a frame apart, for each clock whose times are nearly so: FFmpeg makes up most of MPEG streams, and errs."""
    parts, begin_s = [], 0.0
    for part_s in np.split(times_s, starts):
        part_s, even_s = part_s - part_s[0], np.arange(len(part_s)) / rate
        errors = np.abs(part_s - even_s) * rate  # in frames
        is_even = errors.max() <= 2.01 and np.mean(errors <= 1.01) > 0.9
        parts.append(begin_s + (even_s if is_even else part_s))
        begin_s = parts[-1][-1] + 1 / rate
    return np.concatenate(parts)


def _decoded(reader, rows):
    """Yield (number of its packet, frame, time of decoding when it came out), and add what each packet is to rows."""
    packets = _numbered(reader, rows)
    for packet in packets:
        dts = packet.dts
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # damage is for those to meet who want that frame
        for frame in frames:
            yield frame.pts, frame, dts


def _numbered(reader, rows):
    for packet in from_keyframe(reader.packets()):
        if packet.size:
            rows.append(_row(packet))
            packet.pts = len(rows) - 1  # a decoder hands it on to the frame
        yield packet


def _usual_step(rows):
    """Ticks from one packet to the next; 0 if they do not say."""
    times = sorted({row.dts for row in rows if row.dts is not None})
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _row(packet):
    return _Row(packet.pts, packet.dts, packet.pos, packet.size, packet.is_keyframe)


def _table(rows, times_s):
    keyframes = np.array([number for number, row in enumerate(rows) if row.is_keyframe], np.int64)
    places = [(rows[number].place, rows[number].dts) for number in keyframes]
    return FrameTable(times_s, np.array([row.size for row in rows]), keyframes, places, float(np.nanmax(times_s)))


def real_stamps(pts: Sequence[int | None], output_dts: Sequence[int | None]) -> Sequence[int | None]:
    """Which of the two tell when frames are shown; both are in the order in which a decoder gave the frames.

    That order is the order of showing. Times of showing that do not keep to it were made up, by FFmpeg or by the
    program that wrote the file: then the times of decoding count, as in FFmpeg's best-effort timestamps.
    """
    return output_dts if _steps_back(pts) > _steps_back(output_dts) and not _are_mixed(output_dts) else pts


def _are_mixed(stamps):
    return _steps_back(stamps) > max(FEW[0], FEW[1] * len(stamps))


def _steps_back(stamps):
    known = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
    return int((np.diff(known) < 0).sum())


def running_times(stamps_s: Sequence[float | None], frame_s: float | None, longest_s: float) -> np.ndarray:
    """Seconds from the first of some pictures in their order; stamps_s are their times, None where not known.

    Where the clock goes back, or leaps by more than longest_s, it is another clock: the time runs on by a frame.
    Pictures without a time lie evenly between their neighbors, or frame_s apart at either end.
    """
    known = [place for place, stamp in enumerate(stamps_s) if stamp is not None]
    clock_s = np.array([stamps_s[place] for place in known])
    steps_s, frames = np.diff(clock_s), np.diff(known)
    is_sound = (steps_s >= 0) & (steps_s <= longest_s)
    usual_s = np.median((steps_s / frames)[is_sound]) if is_sound.any() else 0.0
    frame_s = float(usual_s) or frame_s or 0.1
    steps_s = np.where(is_sound, steps_s, frames * frame_s)
    times_s = np.interp(np.arange(len(stamps_s)), known, np.concatenate([[0.0], np.cumsum(steps_s)]))
    before, after = known[0], len(stamps_s) - 1 - known[-1]
    times_s += before * frame_s
    times_s[:before] = np.arange(before) * frame_s
    times_s[len(times_s) - after :] += np.arange(1, after + 1) * frame_s
    return times_s

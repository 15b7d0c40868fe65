"""When the pictures of an open video are shown: seconds from its first picture.

MP4, MOV, Matroska and WebM hold the time of showing of every frame: there the file's own timestamps count, once a look
at its first packets has shown that they are real. So they do in AVI, ASF and Matroska's copy of AVI for codecs that
decode frames in the order in which they are shown. For all other files frame_table.py finds out.
"""

import itertools
import math

import av

from rvm_jax.data.video.container import FIX, is_cut_off, is_edited, is_joined, is_ragged
from rvm_jax.data.video.frame_table import HEAD, holds_decoding_times, table_of
from rvm_jax.data.video.packets import PacketReader, before_whole, from_keyframe, tick_seconds
from rvm_jax.errors import DataError

LONGEST_S = 48 * 3600.0  # a few bytes can say that a picture is shown for years, and each tick of them is a frame
EPSILON = 1e-6  # seconds: timestamps closer than this are the same
HOLD_TIMES = ('mov', 'matroska', 'gif', 'ivf', 'yuv4mpegpipe')  # formats with a time of showing for every frame
EDGE = 8  # packets at either end of an MP4 by which its frame rate is found to be constant


class Unreliable(Exception):
    """What was decided of a file turned out not to hold; it is to be read in a slower and safer way."""


class VideoTimes:
    """Times of the video in a PacketReader. rate: frames a second, None where the file states none; tick_s: seconds.

    table: the FrameTable that tells frames by the numbers of their packets; None where timestamps do.
    DataError if the file has no picture, or none with a time.
    """

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._last_s: float | None = None
        self.rate = float(reader.stream.average_rate or 0) or None
        self.tick_s = tick_seconds(reader.stream)
        start = _first_timestamp(reader) if _holds_times(reader) else None
        self._start = start or 0
        self.table = table_of(reader) if start is None else None

    def distrust_timestamps(self) -> None:
        """From now on, let the FrameTable tell the times."""
        self.table, self._last_s = table_of(self._reader), None

    def seconds(self, pts: float) -> float:
        """When a timestamp is."""
        return (pts - self._start) * self.tick_s

    def pts(self, time_s: float) -> int:
        """The last timestamp that is not after a time."""
        return math.floor(time_s / self.tick_s + self._start + EPSILON)

    def of(self, frame: av.VideoFrame) -> float | None:
        """When a decoded frame is shown, None if that is before the first picture.

        Where there is a table, the frame has the number of its packet for a timestamp. Unreliable if it has no time;
        DataError if that is nonsense.
        """
        if frame.pts is None:
            raise Unreliable('has frames without a timestamp')
        if self.table is None:
            time_s = self.seconds(frame.pts)
        else:
            time_s = float(self.table.time_s[frame.pts]) if 0 <= frame.pts < len(self.table.time_s) else math.nan
        return self._checked(time_s) if time_s > -EPSILON else None

    def half_frame(self, fps: float) -> float:
        """Seconds that half a frame is shown, by the file's rate or by what is usual in it; fps is for one without."""
        if self.rate is None and self.table is not None and self.table.usual_s:
            return self.table.usual_s / 2
        return 0.5 / (self.rate or fps)

    def ticks(self, last_s: float, fps: float) -> int:
        """Ticks of fps until half a frame after the last frame, which is shown at last_s."""
        return max(1, math.floor((last_s + self.half_frame(fps)) * fps + EPSILON) + 1)

    def last(self) -> float:
        """When the last frame is shown. Of a file that was cut off, when it should be."""
        if self._last_s is not None:
            return self._last_s
        self._last_s = last_s = self._checked(self._find_last())
        return last_s

    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self.last() + (1 / self.rate if self.rate else 0)

    def _find_last(self):
        last_s = _regular_last(self._reader) if self.table is None else None
        if last_s is None:
            last_s = self._read_last() if self.table is None else self.table.last_s
            if is_cut_off(self._reader.path):
                last_s = max(last_s, self._stated_duration() - 2 * self.half_frame(10))
        return last_s

    def _read_last(self):
        """The last frame of a file with timestamps, from the packets at its end, or all of them."""
        reader = self._reader
        is_there = reader.seek(self.pts(LONGEST_S))
        for _ in range(2):
            stamps = [p.pts for p in reader.packets() if p.pts is not None and not p.is_discard] if is_there else []
            if stamps:
                return self.seconds(max(stamps))
            reader.restart()
            is_there = True
        raise DataError(reader.path, 'has no frame with a timestamp', FIX)

    def _stated_duration(self):
        duration_s = (self._reader.container.duration or 0) / av.time_base
        if self.table is None and 'matroska' in self._reader.container.format.name:
            duration_s -= self._start * self.tick_s  # Matroska counts from 0, not from the start
        return duration_s

    def _checked(self, time_s):
        if abs(time_s) > LONGEST_S:
            reason = f'has a frame at {time_s:.3g} s, and no video is longer than {LONGEST_S / 3600:.0f} hours'
            raise DataError(self._reader.path, reason, FIX)
        return time_s


def _holds_times(reader):
    """Whether the container has the time of showing of every frame."""
    if is_joined(reader.path) or is_edited(reader.path):
        return False
    if holds_decoding_times(reader):
        return not reader.stream.codec_context.codec.reorder
    return any(name in HOLD_TIMES for name in reader.container.format.name.split(','))


def _first_timestamp(reader):
    """The timestamp of the first picture; None where those of the packets are not the times of showing.

    Times that never go back, where the codec may decode frames in another order, may have been made up: then the first
    frames are decoded.
    """
    may_reorder, goes_back = reader.stream.codec_context.has_b_frames, False
    head: list[av.Packet] = []
    for packet in itertools.islice(reader.peek(), HEAD):
        if not packet.size:
            break
        if packet.pts is None:
            return None
        goes_back = goes_back or (bool(head) and packet.pts < head[-1].pts)
        head.append(packet)
        if not may_reorder or (goes_back and packet.dts is not None and packet.dts >= head[0].pts):
            break
    is_plain = bool(head) and head[0].is_keyframe and not head[0].is_discard
    stamps = [packet.pts or 0 for packet in head]
    if is_plain and (not may_reorder or goes_back) and min(stamps) == stamps[0]:
        return stamps[0]
    return _first_decoded(reader, HEAD if may_reorder else 1)


def _first_decoded(reader, count):
    """The same by decoding packets: until there is a frame, and count of them at least."""
    reader.restart()
    stamps: list[int | None] = []
    is_too_early = before_whole(reader.stream.codec_context.name)
    for number, packet in enumerate(from_keyframe(reader.packets())):
        if number >= count and stamps:
            break
        try:
            stamps += [frame.pts for frame in packet.decode() if stamps or not is_too_early(frame)]
        except av.FFmpegError as error:
            if not stamps:
                raise reader.damaged(None, error) from error
            break
    if not stamps:
        raise DataError(reader.path, 'has no frame that can be decoded', FIX)
    known = [stamp for stamp in stamps if stamp is not None]
    return known[0] if len(known) == len(stamps) and known == sorted(known) else None


def _regular_last(reader):
    """When the last frame of an MP4 of constant frame rate is shown, from its tables; None if it may be another file.

    MP4 states the length of each track by itself; those of other containers include the sound.
    """
    stream = reader.stream
    entries, count = stream.index_entries, stream.frames
    if not count or count != len(entries) or not stream.duration or count < 2 or not entries[0].is_keyframe:
        return None
    ends = entries[:EDGE], entries[max(count - EDGE, 0) :]
    span, frame = entries[count - 1].timestamp - entries[0].timestamp, stream.duration / count
    steps = [b.timestamp - a.timestamp for end in ends for a, b in itertools.pairwise(end)]
    is_regular = abs(span + frame - stream.duration) <= frame / 4 and all(abs(step - frame) <= 1 for step in steps)
    if not is_regular or any(entry.is_discard for end in ends for entry in end) or is_ragged(reader.path):
        return None
    return span * tick_seconds(stream)

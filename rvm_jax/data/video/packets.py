"""The packets and frames of the video in a file, from its start or from wherever a search lands. Nothing else seeks.

Where a search lands is for the caller to find out: FFmpeg may land before or after the place that was asked for, and
between keyframes. Only a file that was just opened stands at its start for certain.
"""

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Generator, Iterator

import av

from rvm_jax.data.video.container import DECODERS, FIX, describe, first_video_stream, open_container, raise_if_passing
from rvm_jax.errors import DataError

AVI_HEADER = 8  # bytes before each packet
FARTHEST = 2**62  # of timestamps: what FFmpeg can add to
# Decoders that begin at frames which are not keyframes, and give none before it is whole. Others decode onto nothing.
BEGIN_ANYWHERE = ('h264', 'hevc')


class PacketReader:
    """An open video file. `container` and `stream` are FFmpeg's: `restart` makes new ones, and frees the old.

    DataError as in `container.open_container`, and where the file has no video that can be decoded. Every call may
    raise the OSError of a disk or network that fails in a way that may pass.
    """

    def __init__(self, path: str | os.PathLike, timeout_s: float | None) -> None:
        self.path, self.timeout_s = os.fspath(path), timeout_s
        self.deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._opened = contextlib.ExitStack()
        self._reading: Generator[av.Packet] | None = None
        # Packets looked at since the file was opened; None: it does not stand at its start.
        self._head: list[av.Packet] | None = None
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._stop_reading()
        self._opened.close()

    def restart(self) -> None:
        """Stand at the start of the file, whatever was read before."""
        if self._head is None:
            self.close()
            self._open()

    def seek(self, timestamp: float) -> bool:
        """Go to about this timestamp of the stream, if the container can be searched; False: it cannot be."""
        timestamp = int(min(max(timestamp, -FARTHEST), FARTHEST))
        return self._seek(timestamp, stream=self.stream)

    def seek_byte(self, place: int) -> bool:
        """Go to this byte of the file, if the container can be read from there; False: it cannot be."""
        return self._seek(place, unsupported_byte_offset=True)

    def packets(self) -> Iterator[av.Packet]:
        """Yield the video's packets to the end of the file, then an empty one that makes the decoder give the rest.

        DataError if reading fails or the time limit has passed.
        """
        head, rest = self._head, self._reading
        if head is None or rest is None:
            self._stop_reading()
            head, rest = [], self._demux()
        self._head, self._reading = None, rest
        return itertools.chain(head, rest)

    def peek(self) -> Iterator[av.Packet]:
        """Yield packets of a file that was just opened; they are not to be decoded, for `packets` gives them again."""
        self.restart()
        reading = self._reading = self._reading or self._demux()
        head = self._head = self._head or []
        yield from head
        for packet in reading:
            head.append(packet)
            yield packet

    def damaged(self, time_s: float | None, error: Exception | str) -> DataError:
        """What to raise where the data cannot be decoded."""
        where = '' if time_s is None else f'at {max(time_s, 0):.2f} s: '
        return DataError(self.path, f'is damaged ({where}{describe(error)})', FIX)

    def _demux(self) -> Generator[av.Packet]:
        where, is_to_end = None, False
        while not is_to_end:
            try:
                # Closed by hand: PyAV's own generator, left before its end, never gives back what it holds.
                with contextlib.closing(self.container.demux(self.stream)) as packets:  # type: ignore[type-var]
                    for packet in packets:
                        if time.monotonic() > self.deadline:
                            reason = f'takes too long to decode (more than {self.timeout_s:g} s)'
                            raise DataError(self.path, reason, FIX)
                        where = where if packet.dts is None else packet.dts
                        if self._is_counted and packet.is_keyframe and self._is_elsewhere(packet):
                            raise self.damaged(self._seconds(where), 'the frames before this one are not all there')
                        if packet.size or packet.dts is None:  # an empty one with a time: the same picture again
                            yield packet
                is_to_end = True
            except av.BlockingIOError:
                pass  # a long stretch of a transport stream holds nothing: FFmpeg searches no farther at once
            except (av.FFmpegError, OSError) as error:
                raise_if_passing(self.path, error)
                raise self.damaged(self._seconds(where), error) from error

    def _open(self):
        self.container = self._opened.enter_context(open_container(self.path, self.timeout_s))
        self.stream = first_video_stream(self.path, self.container)
        context = self.stream.codec_context
        context.options, context.thread_count, context.thread_type = DECODERS, 1, 'NONE'
        self._head = []
        self._is_counted = self.container.format.name == 'avi'  # its packets' times are how many came before

    def _is_elsewhere(self, packet):
        """Whether the file's index has another place for the packet of this time."""
        entries = self.stream.index_entries
        i = entries.search_timestamp(packet.dts) if packet.dts is not None else -1
        return i >= 0 and entries[i].timestamp == packet.dts and entries[i].pos + AVI_HEADER != packet.pos

    def _stop_reading(self):
        if self._reading is not None:
            self._reading.close()
        self._head, self._reading = None, None

    def _seek(self, place, **how):
        self._stop_reading()
        try:
            self.container.seek(place, **how)
        except (av.FFmpegError, OSError) as error:
            raise_if_passing(self.path, error)
            return False
        return True

    def _seconds(self, timestamp):
        if timestamp is None:
            return None
        return (timestamp - (self.stream.start_time or 0)) * tick_seconds(self.stream)


def tick_seconds(stream: av.VideoStream) -> float:
    """Seconds of one tick of a stream's timestamps."""
    return float(stream.time_base or 0)


def from_keyframe(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Leave out what comes before the first keyframe: decoders make gray pictures of it, or old ones."""
    return itertools.dropwhile(lambda packet: packet.size and not packet.is_keyframe, packets)


def before_whole(codec: str) -> Callable[[av.VideoFrame], bool]:
    """A test of frames in their order from a start: whether each is damaged, or predicted from one that is."""
    is_damaged = False

    def test(frame: av.VideoFrame) -> bool:
        nonlocal is_damaged
        ends = frame.key_frame or codec in BEGIN_ANYWHERE
        is_damaged = bool(frame.is_corrupt or (is_damaged and not ends))
        return is_damaged

    return test

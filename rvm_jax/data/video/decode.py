"""Open a video and decode chosen frames at a chosen rate, one thread a decode; folders are for frame_folder.py.

Time is counted in ticks: tick k of a target rate lies k / fps seconds after the first picture that can be decoded, and
its frame is the one that is shown nearest to it (the earlier of two that are equally near). `timestamps.py` says when
each frame is shown. A frame that comes first and is later than the one asked for is never taken for it: then decoding
begins earlier, at last at the start of the file. Frames come upright, as 8-bit RGB; more bits are cut to 8, HDR is not
tone-mapped, and pixels that are not square stay as stored.

A file can be sound in part. The call fails if a frame that is asked for, or one between it and its keyframe, is damaged
or missing, whatever the rest of the file is like.

Where a disk or network fails in a way that may pass, every call raises the OSError itself: it says nothing of the file.
docs/data.md lists what happens to odd files.
"""

import bisect
import collections
import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from rvm_jax.data.video.container import FIX
from rvm_jax.data.video.frame_folder import FrameFolder
from rvm_jax.data.video.lazy_frames import LazyFrames, check_clip, decoded
from rvm_jax.data.video.orientation import check_messages, orientation, upright
from rvm_jax.data.video.packets import BEGIN_ANYWHERE, PacketReader, from_keyframe
from rvm_jax.data.video.timestamps import EPSILON, Unreliable, VideoTimes
from rvm_jax.data.video.video_info import VideoInfo
from rvm_jax.errors import DataError

# Decoders whose 'non-reference' flag is strict: such a frame is used by no other one. In H.265 it may be used by a
# higher temporal layer, so there every frame is decoded.
SKIPPABLE = ('h264',)
EARLIER_S = (0, 2, 10)  # before the time asked for, where decoding is begun in turn, before it begins at the start


def probe(path: str | os.PathLike) -> VideoInfo:
    """VideoInfo of a video. DataError if it cannot be opened or its first frame cannot be decoded."""
    with open_video(path) as video:
        return video.info()


def read_frames(
    path: str | os.PathLike, ticks: Sequence[int] | np.ndarray, fps: float, timeout_s: float | None = None
) -> np.ndarray:
    """Decode the frames nearest to ticks (integers, any order, repeats allowed) of the target rate fps.

    Returns (n, H, W, 3) uint8 in the order of ticks. DataError as in `Video.read`.
    """
    with open_video(path, timeout_s) as video:
        return video.read(ticks, fps)


def iterate_frames(path: str | os.PathLike, fps: float | None = None) -> Iterator[np.ndarray]:
    """Yield every frame (H, W, 3) uint8 of a video, or the nearest one to each tick of fps, in constant memory."""
    with open_video(path) as video:
        yield from video.stream(fps)


@contextlib.contextmanager
def open_video(path: str | os.PathLike, timeout_s: float | None = None) -> Iterator['Video | FrameFolder']:
    """Open a video for as long as the `with` block lasts; a `Video` that gives up timeout_s seconds from now.

    A folder is opened as a `FrameFolder`, which has the same methods. DataError as in `container.open_container` and
    `FrameFolder`.
    """
    if os.path.isdir(path):
        yield FrameFolder(path, timeout_s)
        return
    with contextlib.closing(PacketReader(path, timeout_s)) as reader:
        yield Video(reader)


class Video:
    """An open video. Made by `open_video`, which closes it."""

    def __init__(self, reader: PacketReader) -> None:
        self.path = reader.path
        self._reader = reader
        if reader.stream.codec_context.name in BEGIN_ANYWHERE:
            check_messages(self.path, next(reader.peek()))
        self._times = VideoTimes(reader)
        self._can_skip = reader.stream.codec_context.name in SKIPPABLE
        self._can_search = True
        self._position = -math.inf  # of the newest packet: its decoding timestamp, or where there is a table its number
        self._reformatter = VideoReformatter()

    def info(self) -> VideoInfo:
        """VideoInfo; decodes a frame, because only frames know which way up they are."""
        _, frame = self._first_frame()
        degrees, is_mirrored = orientation(self.path, frame)
        height, width = (frame.height, frame.width) if degrees % 180 == 0 else (frame.width, frame.height)
        num_frames, times = self._reader.stream.frames or None, self._times
        if times.table is not None:
            num_frames = int(np.isfinite(times.table.time_s).sum())
        return VideoInfo(num_frames, times.rate, times.duration(), height, width, degrees, is_mirrored)

    def count(self, fps: float) -> int:
        """Ticks of fps that this video holds. The last one is at most half a frame after the last frame.

        A file that was cut off holds fewer than it says, and this is what it says.
        """
        return self._times.ticks(self._times.last(), fps)

    def read(self, ticks: Sequence[int] | np.ndarray, fps: float) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 nearest to ticks (integers, any order); only what is needed is decoded.

        DataError where a frame that is wanted, or one that it is predicted from, is damaged or missing, where all of
        them would exhaust the memory, or decoding takes longer than the time limit.
        """
        ticks = np.asarray(ticks)
        unique, context = np.unique(ticks), self._reader.stream.codec_context
        check_clip(self.path, len(ticks), context.height, context.width)
        while True:
            try:
                images = self._read(unique / fps)
                break
            except Unreliable as error:
                self._read_more_safely(error)
        if len({image.shape for image in images}) > 1:
            raise DataError(self.path, 'changes its size between frames', FIX)
        frames_THWC, places = np.empty((len(ticks), *images[0].shape), np.uint8), np.searchsorted(unique, ticks)
        for i, image in enumerate(images):
            frames_THWC[places == i] = image
            images[i] = None  # frames of 8K take 100 MB each: not all of them twice
        return frames_THWC

    def pictures(self, ticks: Sequence[int] | np.ndarray, fps: float) -> LazyFrames:
        """`read` as LazyFrames: what a source's videos give to the loader."""
        return decoded(self.read(ticks, fps))

    def stream(self, fps: float | None = None, first: int = 0, short_side: int | None = None) -> Iterator[np.ndarray]:
        """Yield frames (H, W, 3) uint8 to the last: every one, or the nearest to each tick of fps from `first` on.

        Frames whose shorter side has more than short_side pixels are scaled down to it, averaging over areas.
        """
        done = first
        while True:
            try:
                frames = self._every_frame(done) if fps is None else self._nearest_frames(fps, done)
                for frame in frames:
                    yield self._to_rgb(frame, short_side)
                    done += 1
                return
            except Unreliable as error:
                self._read_more_safely(error)

    def _first_frame(self):
        while True:
            try:
                first = next(self._frames_from(0), None)
            except Unreliable as error:
                self._read_more_safely(error)
                continue
            if first is None:
                raise DataError(self.path, 'has no frame that can be decoded', FIX)
            return first

    def _every_frame(self, first):
        return (frame for _, frame in itertools.islice(self._frames_from(0), first, None))

    def _nearest_frames(self, fps, tick):
        before = None
        for now in self._frames_from(tick / fps):
            while tick / fps <= now[0] + EPSILON:
                yield _nearer(before, now, tick / fps)[1]
                tick += 1
            before = now
        if before is not None:
            yield from itertools.repeat(before[1], max(0, self._times.ticks(before[0], fps) - tick))

    def _read(self, times_s):
        images: list[np.ndarray] = []
        while len(images) < len(times_s):
            images += self._read_some(times_s[len(images) :])
        return images

    def _read_some(self, times_s):
        """Images for the first of times_s, as many as are cheaper to reach by decoding on than by searching again."""
        images: list[np.ndarray] = []
        before = None
        for now in self._frames_from(times_s[0], times_s):
            served, chosen = len(images), None
            while len(images) < len(times_s) and times_s[len(images)] <= now[0] + EPSILON:
                nearer = _nearer(before, now, times_s[len(images)])
                images.append(images[-1] if nearer is chosen else self._to_rgb(nearer[1]))
                chosen = nearer
            if len(images) == len(times_s) or (len(images) > served and self._is_keyframe_ahead(times_s[len(images)])):
                return images
            before = now
        return self._read_end(times_s, images, before)

    def _read_end(self, times_s, images, last):
        """The last frame stands for the ticks until it would be replaced; a tick after that has no frame."""
        table, end_s = self._times.table, 0.0
        if table is not None and self._can_search and (last is None or last[0] < table.last_s - EPSILON):
            raise Unreliable('ends earlier after a search')  # a search may know of the first of joined files alone
        if last is not None:
            shown_s = (last[1].duration or 0) * self._times.tick_s
            end_s = last[0] + max(self._times.half_frame(1), shown_s)
        if last is None or times_s[-1] > end_s + EPSILON:
            raise DataError(self.path, f'ends before it should (at {end_s:.2f} s)', FIX)
        return images + [self._to_rgb(last[1])] * (len(times_s) - len(images))

    def _frames_from(self, time_s, times_s=None):
        """Yield (seconds, frame) in the order of showing, from one that is shown at time_s or earlier on.

        Frames that times_s make superfluous may be left out. Unreliable where times go back.
        """
        for packets in self._searches(time_s):
            frames = self._timed(packets, times_s)
            first = self._first_found(frames)
            if first is not None and first[0] <= time_s + EPSILON:
                break
        else:
            self._reader.restart()
            frames = self._timed(self._numbered(from_keyframe(self._reader.packets()), 0), times_s)
            first = next(frames, None)
        last_s = -math.inf
        for now in itertools.chain([] if first is None else [first], frames):
            if now[0] < last_s:
                raise Unreliable('shows its frames in another order than their times say')
            if now[1].is_corrupt:
                raise self._reader.damaged(None, f'corrupt frame at {now[0]:.2f} s')
            last_s = now[0]
            yield now

    def _first_found(self, frames):
        """The first frame after a search; None if it is not one to begin at, whatever the file says of its packet."""
        try:
            first = next(frames, None)
        except DataError:  # met again by those who want that frame
            return None
        if first is None or first[1].is_corrupt:
            return None
        if not first[1].key_frame and self._reader.stream.codec_context.name not in BEGIN_ANYWHERE:
            self._can_search = False  # the file calls frames keyframes that are none
            return None
        return first

    def _searches(self, time_s):
        """Yield packets from keyframes that may be at time_s or earlier, one search after the other."""
        if not self._can_search:
            return
        table = self._times.table
        if table is not None:
            keyframe = table.keyframe_before(time_s)
            packets = None if keyframe is None else table.search(self._reader, keyframe)
            if packets is not None:
                number, found = packets
                yield self._numbered(found, number)
            return
        for earlier_s in EARLIER_S:
            if time_s > earlier_s and self._reader.seek(self._times.pts(time_s - earlier_s)):
                yield from_keyframe(self._reader.packets())

    def _numbered(self, packets, number):
        """Where there is a table, give packets their numbers for timestamps, from this one on."""
        table = self._times.table
        if table is None:
            yield from packets
            return
        for packet in packets:
            if packet.size:
                if number >= len(table.size) or packet.size != table.size[number]:
                    raise Unreliable('gives other packets after a search')
                packet.pts = packet.dts = number
                number += 1
            yield packet

    def _timed(self, packets, times_s):
        """Yield (seconds, frame) for packets; those before the first picture are left out."""
        context = self._reader.stream.codec_context
        missing, last = set(), math.inf  # timestamps of the frames that are to come out, and of the last that did
        for packet, is_needed in self._needed(packets, times_s):
            if self._can_skip:
                context.skip_frame = 'DEFAULT' if is_needed else 'NONREF'
                if is_needed and packet.pts is not None and not packet.is_discard:
                    missing.add(packet.pts)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                raise self._damaged(packet.pts, error) from error
            for frame in frames:
                if self._can_skip and frame.interlaced_frame:
                    raise Unreliable('has frames of two fields, which may be in two packets')
                if self._can_skip and frame.pts is not None:
                    if any(last < pts < frame.pts for pts in missing):
                        raise Unreliable('lacks a frame where others are left out')
                    missing, last = {pts for pts in missing if pts > frame.pts}, frame.pts
                time_s = self._times.of(frame)
                if time_s is not None:
                    yield time_s, frame

    def _needed(self, packets, times_s):
        """Yield (packet, is_needed); is_needed is False where no time in times_s is nearest to the packet's frame.

        The frames shown right before and after a packet's are known once decoding timestamps have passed them, so
        packets wait here until then. Superfluous frames are decoded only if others are predicted from them.
        """
        waiting: collections.deque[av.Packet] = collections.deque()
        shown: list[int] = []
        can_skip = times_s is not None and self._can_skip and self._times.table is None
        for packet in packets:
            if packet.dts is not None:
                self._position = packet.dts
            waiting.append(packet)
            if packet.pts is not None:
                bisect.insort(shown, packet.pts)
            blind = not can_skip or packet.dts is None
            while waiting and (blind or waiting[0].pts is None or _successor(shown, waiting[0].pts) <= packet.dts):
                packet_out = waiting.popleft()
                yield packet_out, blind or packet_out.pts is None or self._is_wanted(packet_out.pts, shown, times_s)
        for packet in waiting:
            yield packet, True

    def _is_wanted(self, pts, shown, times_s):
        """Whether one of times_s is nearer to this frame than to the ones shown right before and after it."""
        i = bisect.bisect_left(shown, pts)
        before = shown[i - 1] if i else -math.inf
        low, high = (self._times.seconds((a + b) / 2) for a, b in ((before, pts), (pts, _successor(shown, pts))))
        return np.searchsorted(times_s, high + EPSILON, 'right') > np.searchsorted(times_s, low - EPSILON, 'left')

    def _is_keyframe_ahead(self, time_s):
        """Whether a keyframe lies between what has been read and time_s, and can be searched for."""
        if not self._can_search:
            return False
        table = self._times.table
        if table is not None:
            keyframe = table.keyframe_before(time_s)
            return keyframe is not None and table.keyframes[keyframe] > self._position
        entries = self._reader.stream.index_entries
        i = entries.search_timestamp(self._times.pts(time_s))
        return i >= 0 and entries[i].timestamp > self._position

    def _read_more_safely(self, error):
        """After what was decided of the file has failed: decode every frame, then by a table, then without a search."""
        if self._can_skip:
            self._can_skip = False
            self._reader.stream.codec_context.skip_frame = 'DEFAULT'
        elif self._times.table is None:
            self._times.distrust_timestamps()
        elif self._can_search:
            self._can_search = False
        else:
            raise DataError(self.path, str(error), FIX) from error

    def _to_rgb(self, frame, short_side=None):
        how = {}
        if short_side and min(frame.height, frame.width) > short_side:
            scale = short_side / min(frame.height, frame.width)
            how = {'height': round(frame.height * scale), 'width': round(frame.width * scale), 'interpolation': 'AREA'}
        rgb_HWC = self._reformatter.reformat(frame, format='rgb24', threads=1, **how).to_ndarray()
        return upright(self.path, frame, rgb_HWC)

    def _damaged(self, pts, error):
        if pts is not None and self._times.table is not None:
            time_s = self._times.table.time_s[pts]
            return self._reader.damaged(time_s if np.isfinite(time_s) else None, error)
        return self._reader.damaged(None if pts is None else self._times.seconds(pts), error)


def _nearer(before, after, time_s):
    """Which of two (seconds, frame) is nearer to a time, the first where both are equally; it may be None."""
    if before is None:
        return after
    return before if time_s - before[0] <= after[0] - time_s + EPSILON else after


def _successor(shown, pts):
    i = bisect.bisect_right(shown, pts)
    return shown[i] if i < len(shown) else math.inf

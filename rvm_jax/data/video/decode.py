"""Open a video file and decode chosen frames at a chosen rate, one thread a decode.

Time is counted in ticks: tick k of a target rate lies k / fps seconds after the first picture, and its frame is the one
whose presentation timestamp is nearest (the earlier of two that are equally near). Frame numbers are never used, so
variable frame rates, edit lists and a first timestamp other than 0 need no special case. Frames come upright, as
8-bit RGB; more bits are cut to 8, HDR is not tone-mapped, and mirroring or other than square pixels stay as stored.

A file can be sound in part. The call fails if a frame that is asked for, or one between it and its keyframe, is damaged
or missing, whatever the rest of the file is like.

Where a disk or network fails in a way that may pass, every call raises the OSError itself: it says nothing of the file.
docs/data.md lists what happens to odd files.
"""

import bisect
import collections
import contextlib
import dataclasses
import math
import os
import time

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from rvm_jax.data.video.container import DECODERS, FIX, describe, first_video_stream, open_container, raise_if_passing
from rvm_jax.data.video.lazy_frames import check_clip, decoded
from rvm_jax.data.video.timestamps import EPSILON, VideoTimes
from rvm_jax.errors import DataError

# Decoders whose 'non-reference' flag is strict: such a frame is used by no other one. In H.265 it may be used by a
# higher temporal layer, so there every frame is decoded.
SKIPPABLE = ('h264',)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself; None where it does not say.

    height and width are upright pixels, rotation the degrees counter-clockwise that make the stored frames so.
    """

    num_frames: int | None
    fps: float | None
    duration_s: float | None
    height: int
    width: int
    rotation: int


def probe(path):
    """VideoInfo of a file. DataError if it cannot be opened or its first frame cannot be decoded."""
    with open_video(path) as video:
        return video.info()


def read_frames(path, ticks, fps, timeout_s=None):
    """Decode the frames nearest to ticks (integers, any order, repeats allowed) of the target rate fps.

    Returns (n, H, W, 3) uint8 in the order of ticks. DataError as in `Video.read`.
    """
    with open_video(path, timeout_s) as video:
        return video.read(ticks, fps)


def iterate_frames(path, fps=None):
    """Yield every frame (H, W, 3) uint8 of a video, or the nearest one to each tick of fps, in constant memory."""
    with open_video(path) as video:
        yield from video.stream(fps)


@contextlib.contextmanager
def open_video(path, timeout_s=None):
    """Open a video for as long as the `with` block lasts; a `Video` that gives up timeout_s seconds from now.

    DataError as in `container.open_container`.
    """
    with open_container(path, timeout_s) as container:
        yield Video(os.fspath(path), container, timeout_s)


class Video:
    """An open video. Made by `open_video`, which closes it."""

    def __init__(self, path, container, timeout_s):
        self.path = path
        self._container = container
        self._timeout_s = timeout_s
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._stream = stream = first_video_stream(path, container)
        stream.codec_context.options = DECODERS
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = 'NONE'
        self._can_skip = stream.codec_context.name in SKIPPABLE
        self._is_fresh = True  # nothing was read yet
        self._position = None  # decoding timestamp of the newest packet read, if it has one
        self._reformatter = VideoReformatter()
        self._times = VideoTimes(path, container, stream)
        self._times.start_at_first(self._decode())

    def info(self):
        """VideoInfo; decodes a frame, because only frames know their rotation."""
        self._seek(None)
        frame = next(self._decode(), None)
        if frame is None:
            raise DataError(self.path, 'has no frame that can be decoded', FIX)
        rotation = _rotation(frame)
        height, width = (frame.height, frame.width) if rotation % 180 == 0 else (frame.width, frame.height)
        return VideoInfo(self._stream.frames or None, self._times.rate, self._times.duration(), height, width, rotation)

    def count(self, fps):
        """Ticks of fps that this video holds, from its duration, or from its packets where it states none or no rate.

        The last one is at most half a frame after the last frame. A file that was cut off holds fewer than it says.
        """
        duration_s = (self._times.rate and self._times.duration()) or self._times.scanned_duration(self._demux())
        return max(1, math.floor((duration_s - self._times.half_frame(fps)) * fps + EPSILON) + 1)

    def read(self, ticks, fps):
        """Frames (n, H, W, 3) uint8 nearest to ticks (integers, any order); only what is needed is decoded.

        DataError where a frame that is wanted, or one that it is predicted from, is damaged or missing, where all of
        them would exhaust the memory, or decoding takes longer than the time limit.
        """
        ticks = np.asarray(ticks)
        unique = np.unique(ticks)
        times_s, images = unique / fps, []
        check_clip(self.path, len(ticks), self._stream.codec_context.height, self._stream.codec_context.width)
        while len(images) < len(times_s):
            rest = times_s[len(images) :]
            images += self._read_from(rest, rest[0]) or self._read_from(rest, None)
        if len({image.shape for image in images}) > 1:
            raise DataError(self.path, 'changes its size between frames', FIX)
        frames_THWC, places = np.empty((len(ticks), *images[0].shape), np.uint8), np.searchsorted(unique, ticks)
        for i, image in enumerate(images):
            frames_THWC[places == i] = image
            images[i] = None  # frames of 8K take 100 MB each: not all of them twice
        return frames_THWC

    def pictures(self, ticks, fps):
        """`read` as LazyFrames: what a source's videos give to the loader."""
        return decoded(self.read(ticks, fps))

    def stream(self, fps=None, first=0, short_side=None):
        """Yield frames (H, W, 3) uint8 to the last: every one, or the nearest to each tick of fps from `first` on.

        Frames whose shorter side has more than short_side pixels are scaled down to it, averaging over areas.
        """
        before, tick = None, first
        for frame in self._frames_from(first / fps if first else 0):
            if fps is None:
                yield self._to_rgb(frame, short_side)
                continue
            while tick / fps <= self._times.of(frame) + EPSILON:
                yield self._to_rgb(self._times.nearer(before, frame, tick / fps), short_side)
                tick += 1
            before = frame
        while before is not None and tick / fps <= self._times.of(before) + self._times.half_frame(fps) - EPSILON:
            yield self._to_rgb(before, short_side)
            tick += 1

    def _frames_from(self, time_s):
        """Decoded frames from the keyframe before time_s on, or from the start where seeking overshoots."""
        if time_s > 0:
            self._seek(time_s)
            frames = self._decode()
            head = next(frames, None)
            if head is not None and self._times.of(head) <= time_s + EPSILON:
                yield head
                yield from frames
                return
        self._seek(None)
        yield from self._decode()

    def _read_from(self, times_s, seek_s):
        """Images for the first of times_s, as many as are cheaper to reach by decoding on than by seeking again.

        Starts at the keyframe before seek_s, None: at the start of the file. None if that landed after times_s[0].
        """
        self._seek(seek_s)
        images, before = [], None
        for frame in self._decode(times_s):
            if before is None and seek_s is not None and self._times.of(frame) > times_s[0] + EPSILON:
                return None
            served, chosen = len(images), None
            while len(images) < len(times_s) and times_s[len(images)] <= self._times.of(frame) + EPSILON:
                nearer = self._times.nearer(before, frame, times_s[len(images)])
                images.append(images[-1] if nearer is chosen else self._to_rgb(nearer))
                chosen = nearer
            if len(images) == len(times_s) or (len(images) > served and self._is_keyframe_ahead(times_s[len(images)])):
                return images
            before = frame
        return self._read_end(times_s, images, before, seek_s)

    def _read_end(self, times_s, images, last, seek_s):
        """The last frame stands for the ticks until it would be replaced; a tick after that has no frame."""
        if last is None and seek_s is not None:
            return None
        end_s = 0 if last is None else self._times.end(last)
        missing = times_s[-1]
        if last is None or missing > end_s + EPSILON:
            raise DataError(self.path, f'ends before it should (at {end_s:.2f} s)', FIX)
        return images + [self._to_rgb(last)] * (len(times_s) - len(images))

    def _decode(self, times_s=None):
        """Yield decoded frames in order of presentation; those that times_s make superfluous may be left out."""
        context = self._stream.codec_context
        for packet, is_needed in self._packets(times_s):
            if self._can_skip:
                context.skip_frame = 'DEFAULT' if is_needed else 'NONREF'
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                raise self._damaged(packet.pts, error) from error
            for frame in frames:
                if frame.is_corrupt:
                    raise self._damaged(frame.pts, 'corrupt frame')
                yield frame

    def _packets(self, times_s):
        """Yield (packet, is_needed); is_needed is False where no time in times_s is nearest to the packet's frame.

        The frames shown right before and after a packet's are known once decoding timestamps have passed them, so
        packets wait here until then. Superfluous frames are decoded only if others are predicted from them.
        """
        waiting, shown = collections.deque(), []
        for packet in self._demux():
            waiting.append(packet)
            if packet.pts is not None:
                bisect.insort(shown, packet.pts)
            blind = times_s is None or not self._can_skip or packet.dts is None
            while waiting and (blind or waiting[0].pts is None or _successor(shown, waiting[0].pts) <= packet.dts):
                packet_out = waiting.popleft()
                yield packet_out, blind or packet_out.pts is None or self._is_wanted(packet_out.pts, shown, times_s)
        for packet in waiting:
            yield packet, True

    def _demux(self):
        self._is_fresh = False
        try:
            # Closed by hand: PyAV's own generator, left before its end, never gives back what it holds.
            with contextlib.closing(self._container.demux(self._stream)) as packets:
                for packet in packets:
                    if time.monotonic() > self._deadline:
                        raise DataError(self.path, f'takes too long to decode (more than {self._timeout_s:g} s)', FIX)
                    if packet.dts is not None:
                        self._position = packet.dts
                    yield packet
        except (av.FFmpegError, OSError) as error:
            raise_if_passing(self.path, error)
            raise self._damaged(self._position, error) from error

    def _is_wanted(self, pts, shown, times_s):
        """Whether one of times_s is nearer to this frame than to the ones shown right before and after it."""
        i = bisect.bisect_left(shown, pts)
        before = shown[i - 1] if i else -math.inf
        low, high = (self._times.seconds((a + b) / 2) for a, b in ((before, pts), (pts, _successor(shown, pts))))
        return np.searchsorted(times_s, high + EPSILON, 'right') > np.searchsorted(times_s, low - EPSILON, 'left')

    def _seek(self, time_s):
        if self._is_fresh and (time_s is None or time_s <= 0):
            return  # it stands at its start
        try:
            self._container.seek(self._times.pts(time_s or 0), stream=self._stream)
        except (av.FFmpegError, OSError) as error:
            raise_if_passing(self.path, error)
            raise DataError(self.path, f'cannot be searched ({describe(error)})', FIX) from error

    def _is_keyframe_ahead(self, time_s):
        """Whether a keyframe lies between what has been read and time_s."""
        entries = self._stream.index_entries
        i = entries.search_timestamp(self._times.pts(time_s))
        return i >= 0 and self._position is not None and entries[i].timestamp > self._position

    def _to_rgb(self, frame, short_side=None):
        how = {}
        if short_side and min(frame.height, frame.width) > short_side:
            scale = short_side / min(frame.height, frame.width)
            how = {'height': round(frame.height * scale), 'width': round(frame.width * scale), 'interpolation': 'AREA'}
        rgb = self._reformatter.reformat(frame, format='rgb24', threads=1, **how).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, _rotation(frame) // 90))

    def _damaged(self, pts, error):
        where = '' if pts is None else f'at {self._times.seconds(pts):.2f} s: '
        return DataError(self.path, f'is damaged ({where}{describe(error)})', FIX)


def _successor(shown, pts):
    i = bisect.bisect_right(shown, pts)
    return shown[i] if i < len(shown) else math.inf


def _rotation(frame):
    """Degrees counter-clockwise that turn a stored frame upright: 0, 90, 180 or 270."""
    return round(frame.rotation / 90) * 90 % 360

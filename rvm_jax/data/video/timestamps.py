"""When the pictures of an open video are shown: seconds from its first picture, from timestamps and what it states."""

import math
import re

import av

from rvm_jax.data.video.container import FIX
from rvm_jax.errors import DataError

LONGEST_S = 48 * 3600.0  # a few bytes can say that a picture is shown for years, and each tick of them is a frame
FARTHEST = 2**62  # of timestamps: what FFmpeg can add to
EPSILON = 1e-6  # seconds: timestamps closer than this are the same


class VideoTimes:
    """Times of one stream of an open container. They are the file's own until `start_at_first`.

    rate: frames a second, None where the file states none.
    """

    def __init__(self, path, container, stream):
        self.rate = float(stream.average_rate or 0) or None
        self._tick_s = float(stream.time_base)
        self._path, self._container, self._stream = path, container, stream
        self._start_s = 0

    def start_at_first(self, frames):
        """Count from the first picture; frames are the video's, decoded for an AVI alone."""
        if 'avi' in self._container.format.name:  # has decoding times only: the decoder says when pictures are shown
            first = next(frames, None)
            self._start_s = 0 if first is None or first.pts is None else first.pts * self._tick_s
        elif self._stream.start_time is not None:
            self._start_s = self._stream.start_time * self._tick_s
        else:
            self._start_s = (self._container.start_time or 0) / av.time_base

    def seconds(self, pts):
        """When a timestamp is."""
        return pts * self._tick_s - self._start_s

    def pts(self, time_s):
        """The last timestamp that is not after a time."""
        pts = math.floor((time_s + self._start_s) / self._tick_s + EPSILON)
        return min(max(pts, -FARTHEST), FARTHEST)

    def of(self, frame):
        """When a decoded frame is shown. DataError if it does not say, or says nonsense."""
        if frame.pts is None:
            raise DataError(self._path, 'has frames without a timestamp', FIX)
        return self._checked(self.seconds(frame.pts))

    def end(self, frame):
        """Until when the last frame stands for the ticks after it."""
        return self.of(frame) + max(self.half_frame(10), frame.duration * self._tick_s)

    def nearer(self, before, after, time_s):
        """Which of two frames is nearer to a time, the first where both are equally; it may be None."""
        if before is None:
            return after
        return before if time_s - self.of(before) <= self.of(after) - time_s + EPSILON else after

    def half_frame(self, fps):
        """Seconds that half a frame is shown; fps is for a file that states no rate."""
        return 0.5 / (self.rate or fps)

    def duration(self):
        """Seconds from the first frame to the end of the last, None where the file does not say, or says nonsense."""
        duration_s = self._stated_duration()
        return duration_s if duration_s and 0 < duration_s <= LONGEST_S else None

    def scanned_duration(self, packets):
        """The same from all packets: the file is read, but not decoded. DataError if none has a timestamp."""
        ends = [packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None]
        if not ends:
            raise DataError(self._path, 'has no frame with a timestamp', FIX)
        return self._checked(self.seconds(max(ends)))

    def _stated_duration(self):
        if self._stream.duration and self._stream.duration > 0:
            return self._stream.duration * self._tick_s
        is_matroska = 'matroska' in self._container.format.name
        tag = re.fullmatch(r'(\d+):(\d+):(\d+\.?\d*)', self._stream.metadata.get('DURATION', ''))
        if tag:
            duration_s = sum(float(part) * unit for part, unit in zip(tag.groups(), (3600, 60, 1), strict=True))
        else:
            duration_s = (self._container.duration or 0) / av.time_base
        return duration_s - self._start_s * is_matroska  # Matroska counts from 0, not from the start

    def _checked(self, time_s):
        if abs(time_s) > LONGEST_S:
            reason = f'has a frame at {time_s:.3g} s, and no video is longer than {LONGEST_S / 3600:.0f} hours'
            raise DataError(self._path, reason, FIX)
        return time_s

"""Which frames of a video are source and which are target: arithmetic on integers (RVM, supplement 7).

Frames are counted at the target rate, from the first frame of the video. A clip is a window of at most clip_frames of
them; the source is num_source frames in a row, each target lies a gap after the last of these.
"""

import dataclasses

import numpy as np

from rvm_jax.errors import DataError

TOO_FEW = 'has too few frames'  # reason of videos without damage


class TooShort(DataError):
    """A video without damage that has fewer frames than one clip needs."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of one example: start of the window, source (T,) and target (F,) in frames of the video, deltas (F,)."""

    start: int
    source: np.ndarray
    target: np.ndarray
    deltas: np.ndarray


def choose_clip(
    rng: np.random.Generator,
    num_frames: int,
    *,
    num_source: int,
    num_target: int,
    clip_frames: int,
    min_gap: int,
    max_gap: int,
    source_start: str,
    delta_from: str,
) -> Clip:
    """Draw one clip from a video of num_frames: the window anywhere inside, gaps uniform, inclusive, with replacement.

    In a window too short for max_gap the gap is capped, so that the last possible target is the window's last frame.
    source_start 'first': the source starts the window; 'random': it starts wherever all gaps still fit.
    deltas count frames from the 'first' or the 'last' source frame to each target (delta_from).
    TooShort if num_frames < num_source + min_gap.
    """
    if num_frames < num_source + min_gap:
        reason = f'{TOO_FEW} ({num_frames}, a clip needs {num_source + min_gap})'
        raise TooShort('this video', reason, 'raise data.fps, or lower data.num_source or data.min_gap')
    span = min(num_frames, clip_frames)
    start = int(rng.integers(num_frames - span, endpoint=True))
    max_gap = min(max_gap, span - num_source)
    room = span - num_source - max_gap
    offset = int(rng.integers(room, endpoint=True)) if source_start == 'random' else 0
    source = start + offset + np.arange(num_source)
    gaps = rng.integers(min_gap, max_gap, num_target, endpoint=True)
    target = source[-1] + gaps
    origin = source[0] if delta_from == 'first' else source[-1]
    return Clip(start, source, target, (target - origin).astype(np.int32))

"""Frames that lie evenly in time, at a rate of their own, counted in ticks of another rate."""

import math


def frame_at(tick: int, fps: float, own_fps: float) -> int:
    """The frame, at own_fps, that is nearest to a tick of fps; the earlier of two that are equally near."""
    return math.ceil(tick * own_fps / fps - 0.5 - 1e-6)


def count_at(num_frames: int, fps: float, own_fps: float) -> int:
    """Ticks of fps in a sequence of num_frames at own_fps; the last is at most half a frame after its last frame."""
    return max(1, math.floor((num_frames - 0.5) * fps / own_fps + 1e-6) + 1)

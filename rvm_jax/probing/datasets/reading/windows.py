"""Which frames of a video a clip has: arithmetic on integers."""

import numpy as np

from rvm_jax.data.clips import TooShort


def choose_frames(rng, total, *, num_frames, stride, clip=0, num_clips=1, start='center', name=None):
    """Frame numbers (num_frames,), stride apart, in a video of total frames.

    rng draws where the clip starts. Without one, clip number `clip` of num_clips that are spread evenly from the first
    possible start to the last; a single one is in the 'center' or is the 'first' possible (start).
    A video that is too short gives its last frame several times; where it has a name, TooShort.
    """
    room = total - (stride * (num_frames - 1) + 1)
    if room < 0 and name is not None:
        fix = 'leave it out, or ask for fewer frames or a smaller stride'
        raise TooShort(name, f'has too few frames ({total}, a clip needs {total - room})', fix)
    room = max(room, 0)
    if rng is not None:
        first = int(rng.integers(room, endpoint=True))
    elif num_clips > 1:
        first = round(float(np.linspace(0, room, num_clips)[clip]))
    else:
        first = room // 2 if start == 'center' else 0
    return np.minimum(first + stride * np.arange(num_frames), total - 1)

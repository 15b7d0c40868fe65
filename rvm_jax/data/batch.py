"""One batch: names, shapes, dtypes and ranges of what the loader hands to the training step.

source_BTHWC   uint8, RGB, upright: the frames watched
target_BFHWC   uint8: the frames to reconstruct
deltas_BF      int32, >= 0: frames from a source frame (data.delta_from) to each target
record_B       int64: index in the source of the video that each clip came from
step           int: the step that this batch belongs to; it and the seed determine everything above
failures       list of (kind, path, reason): videos that were drawn and gave no clip, kind is one of KINDS
read_retries   int: reads that were tried again, because a disk or network failed
notices        list of lines on what else happened while the batch was made

The first four are arrays for the device; the others stay on the host.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rvm_jax.errors import DataError

FAILED, TOO_SHORT = KINDS = ('failed', 'too short')
ARRAYS = {'source_BTHWC': np.uint8, 'target_BFHWC': np.uint8, 'deltas_BF': np.int32, 'record_B': np.int64}


def stack_clips(clips: Sequence[dict[str, Any]], num_source: int) -> dict[str, Any]:
    """The batch of clips (see `loader.ClipMaker`), without step and notices. The first num_source frames are source.

    DataError if an entry holds only failures, because no video that was tried gave a clip.
    """
    for clip in clips:
        if 'record' not in clip:
            _, path, reason = clip['failures'][0]
            raise DataError(path, reason, f'{len(clip["failures"])} videos in a row gave no clip, repair the data')
    return {
        'source_BTHWC': np.stack([clip['frames_THWC'][:num_source] for clip in clips]),
        'target_BFHWC': np.stack([clip['frames_THWC'][num_source:] for clip in clips]),
        'deltas_BF': np.stack([clip['deltas_F'] for clip in clips]).astype(np.int32),
        'record_B': np.array([clip['record'] for clip in clips], np.int64),
        'failures': [tuple(failure) for clip in clips for failure in clip['failures']],
        'read_retries': sum(clip['read_retries'] for clip in clips),
    }


def check_batch(
    batch: dict[str, Any], *, batch_size: int, num_source: int, num_target: int, image_size: int
) -> dict[str, Any]:
    """Raise ValueError, naming the array, where a batch is not what the top of this file says; returns the batch."""
    frame = (image_size, image_size, 3)
    shapes = {
        'source_BTHWC': (batch_size, num_source, *frame),
        'target_BFHWC': (batch_size, num_target, *frame),
        'deltas_BF': (batch_size, num_target),
        'record_B': (batch_size,),
    }
    for name, dtype in ARRAYS.items():
        found = batch[name]
        if found.shape != shapes[name] or found.dtype != dtype:
            raise ValueError(f'{name} is {found.dtype}{found.shape}, must be {np.dtype(dtype)}{shapes[name]}')
    for name in ('deltas_BF', 'record_B'):
        if batch[name].min() < 0:
            raise ValueError(f'{name} has a negative value: {batch[name].min()}')
    if any(kind not in KINDS for kind, _, _ in batch['failures']):
        raise ValueError(f'failures has a kind outside {KINDS}')
    return batch

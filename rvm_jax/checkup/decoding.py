"""How many clips a second one core decodes, and how many workers the devices need."""

import contextlib
import math
import os
import tempfile
import time

import cv2
import ml_collections

from rvm_jax.checkup.finding import Finding
from rvm_jax.data.loader import ClipMaker
from rvm_jax.data.open_data import open_training
from rvm_jax.errors import DataError
from rvm_jax.synthetic.synthetic_videos import write_videos

SECONDS, MOST = 8.0, 64  # of decoding, and clips, whichever ends first
RENDERED = 2  # videos, where the user names none


def check_decoding(config: ml_collections.ConfigDict, pace: float | None, cores: float, place: str = '') -> Finding:
    """The Finding on the videos of a recipe, or on rendered ones if it names none.

    pace: clips a second that the devices of this process take, None if not known; cores: of each process on this host;
    place: folder for rendered videos, '' for a temporary one. Raises UserError if the data cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        data, what = config.data, 'the given videos'
        if not (data.path or data.mixture):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='rvm_doctor_', dir=place or None))
            data, what = _rendered(data, folder), 'rendered videos'
        source = open_training(data)
        clips = ClipMaker(source, data, seed=config.seed, order=source.order(config.seed), is_training=True)
        rate, made, failures = _measure(clips, stack)
    return judge_decoding(what, rate, made, failures, pace, data.num_workers, cores)


def _rendered(data, folder):
    data = data.copy_and_resolve_references()
    side = 2 * math.ceil(data.image_size / 2)
    write_videos(
        folder, RENDERED, seed=0, num_frames=2 * data.clip_frames, height=side, width=4 * side // 3 // 2 * 2,
        fps=max(1, round(data.fps)), crf=23, num_workers=0,
    )  # fmt: skip
    data.path = folder
    return data


def _measure(clips, stack):
    """(clips a CPU second, how many were made, {video that gave none: why}) of one core."""
    threads = cv2.getNumThreads()
    stack.callback(cv2.setNumThreads, threads)
    cv2.setNumThreads(1)  # as in a worker
    clips(0)  # libraries load, files open
    began, cpu, made = time.monotonic(), time.process_time(), 0
    failures: dict[str, str] = {}
    for sample in range(1, MOST + 1):
        clip = clips(sample)
        failures |= {name: reason for _, name, reason in clip['failures']}
        made += 'frames_THWC' in clip
        if time.monotonic() - began > SECONDS:
            break
    if not made:
        name, reason = next(iter(failures.items()), ('data', 'no clip'))
        raise DataError(name, reason, 'check the videos with rvm info')
    return made / (time.process_time() - cpu), made, failures


def judge_decoding(
    what: str,
    rate: float,
    made: int,
    failures: dict[str, str],
    pace: float | None,
    num_workers: int,
    cores: float,
) -> Finding:
    """The Finding on `rate` clips a second and core.

    what: which videos; made: number of clips; failures: {video: why it gave none}; pace, cores: see `check_decoding`.
    """
    text = f'{rate:,.1f} clips/s a core from {what}'
    values = {'clips_per_core': rate, 'clips': made, 'failures': len(failures), 'cores': cores}
    values |= {'num_workers': num_workers}
    if failures:
        text += f'; {len(failures)} videos gave no clip, such as {": ".join(next(iter(failures.items())))}'
        return Finding(
            'decoding', 'yellow', text, 'remove or re-encode them; data.max_failures says how many may', values
        )
    if pace is None:
        return Finding(
            'decoding', 'green', f'{text}; how many workers are needed is not known without steps', '', values
        )
    needed = math.ceil(pace / rate)
    values['workers_needed'] = needed
    text += f'; workers of a process needed for {pace:,.3g} clips/s: {needed}, the recipe has {num_workers}'
    if needed > cores:
        fix = 'prepare shards with rvm prepare, which are read many times faster, or take hosts with more cores'
        return Finding('decoding', 'yellow', f'{text} and {cores:.3g} cores', fix, values)
    if needed > max(num_workers, 1):
        return Finding('decoding', 'yellow', text, f'--config.data.num_workers={needed}', values)
    return Finding('decoding', 'green', text, values=values)


def cores_each(processes_here: int) -> float:
    """Cores that each of so many processes on this host has for its workers."""
    return len(os.sched_getaffinity(0)) / processes_here

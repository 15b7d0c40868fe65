"""One video becomes records of a shard: a pure function of the file and the settings, for any kind of runner.

Each video is first made alone, into a shard of its own in the folder of unfinished work, with a JSON file beside it
that says what became of it. That file comes last: a video that has one is never made again.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from rvm_jax.data.clips import TOO_FEW
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.shard_format import SEQUENCE, write_shard
from rvm_jax.data.video.decode import open_video
from rvm_jax.data.video.frame_folder import RATE
from rvm_jax.data.video.shard_codecs import encode_group
from rvm_jax.errors import DataError
from rvm_jax.storage import files

IN_A_FOLDER = 1000  # videos, so that no folder of unfinished work grows too large


@dataclasses.dataclass(frozen=True)
class Settings:
    """How videos are prepared: these settings determine every byte of the shards.

    fps: frames per second; short_side: pixels of the shorter side at most, 0 for no limit; codec, quality, group: see
    shard_codecs.py; clip_frames: frames a training clip spans at most; clips_per_video: keep so many of these of longer
    videos, evenly spread, 0: everything; min_frames: shorter sequences are skipped; shard_bytes: a shard is closed once
    it has as many.
    """

    fps: float = 10.0
    short_side: int = 256
    codec: str = 'jpeg'
    quality: int = 90
    group: int = 1
    clip_frames: int = 64
    clips_per_video: int = 0
    min_frames: int = 8
    shard_bytes: int = 256 * 2**20


def work_path(folder: str, number: int) -> str:
    """Where the work on task `number` is kept, without the ends .array_record and .json."""
    return os.path.join(folder, f'{number // IN_A_FOLDER:05}', f'{number:08}')


def outcome_of(folder: str, number: int) -> dict[str, Any] | None:
    """What came of a task, see `prepare_task`; None if it is not done, or its file is damaged."""
    path = work_path(folder, number) + '.json'
    if not os.path.exists(path):
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # cut off by a power failure
        outcome = files.read_json(path)
        if _is_outcome(outcome):
            return outcome
    return None


def _is_outcome(outcome):
    if 'skipped' in outcome:
        return isinstance(outcome['skipped'], str)
    sequences, original = outcome['sequences'], outcome['original']
    numbers = [outcome['records'], outcome['bytes'], original['height'], original['width']]
    numbers += [sequence['frames'] for sequence in sequences]
    return (
        all(isinstance(number, int) and number > 0 for number in numbers)
        and isinstance(original['fps'], (int, float, type(None)))
        and all(sequence.keys() >= SEQUENCE for sequence in sequences)
    )


def prepare_task(
    number: int, task: Task, settings: Settings, folder: str, heartbeat: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Make a task's records; write down, and return, what came of it.

    {'skipped': reason}, or {'sequences': [...] as in a shard, 'records', 'bytes', 'original': {fps, height, width,
    seconds}}. heartbeat() is called for each group of frames. OSError if the disk or network fails.
    """
    path = work_path(folder, number)
    files.make_folder(os.path.dirname(path))
    try:
        outcome = prepare_video(task, settings, path + '.array_record', heartbeat)
    except DataError as error:
        outcome = {'skipped': error.reason}
    except (cv2.error, IndexError, MemoryError, ValueError) as error:  # one odd video must not stop all others
        outcome = {'skipped': f'cannot be prepared ({type(error).__name__}: {error})'}
    record_outcome(folder, number, outcome)
    return outcome


def record_outcome(folder: str, number: int, outcome: dict[str, Any]) -> None:
    """Write down what came of a task."""
    files.make_folder(os.path.dirname(work_path(folder, number)))
    files.write(work_path(folder, number) + '.json', json.dumps(outcome).encode(), durable=True)


def prepare_video(
    task: Task, settings: Settings, path: str, heartbeat: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write a shard with the sequences of one video, and return its outcome. DataError if it cannot be used."""
    sequences: list[dict[str, Any]] = []
    with open_video(task.path) as video:
        info = video.info()
        if not info.has_times and (task.start_s, task.end_s) != (None, None):
            reason = f'is a folder of frames without {RATE}, and the list names seconds of it'
            raise DataError(task.path, reason, 'write its frames per second there')
        pieces = choose_pieces(task, settings, video.count(settings.fps))
        groups = _groups(video, task, pieces, settings, sequences, heartbeat)
        records, size = write_shard(path, os.path.dirname(path), groups, sequences)
    original = {'fps': info.fps, 'height': info.height, 'width': info.width, 'seconds': info.duration_s}
    return {'sequences': sequences, 'records': records, 'bytes': size, 'original': original}


def choose_pieces(task: Task, settings: Settings, num_frames: int) -> list[tuple[int, int]]:
    """[(first frame, frames)] to keep, counted at settings.fps from the start of the video. DataError if too short."""
    first = round((task.start_s or 0) * settings.fps)
    last = num_frames if task.end_s is None else min(num_frames, round(task.end_s * settings.fps))
    found, wanted = last - first, settings.clips_per_video
    if found < settings.min_frames:
        raise DataError(task.path, f'{TOO_FEW} ({max(found, 0)}, at least {settings.min_frames} are kept)', '')
    if not wanted or found <= wanted * settings.clip_frames:
        return [(first, found)]
    room = found - settings.clip_frames
    places = [room // 2] if wanted == 1 else np.linspace(0, room, wanted).round().astype(int)
    return [(first + int(place), settings.clip_frames) for place in places]


def _groups(video, task, pieces, settings, sequences, heartbeat):
    """Yield the records of all pieces, and append a description of each piece to sequences."""
    for first, count in pieces:
        name = task.name if len(pieces) == 1 else f'{task.name} from {first / settings.fps:g} s'
        frames = itertools.islice(video.stream(settings.fps, first, settings.short_side or None), count)
        done = 0
        shape: tuple[int, ...] = ()
        while group := list(itertools.islice(frames, settings.group)):
            heartbeat()
            if settings.codec == 'h264':  # which has even sides only
                group = [frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in group]
                if not group[0].size:
                    raise DataError(task.path, 'is too narrow for h264 (1 pixel)', '')
            shape = shape if done else group[0].shape
            if any(frame.shape != shape for frame in group):
                raise DataError(task.path, 'changes its size between frames', '')
            done += len(group)
            yield encode_group(group, settings.codec, settings.quality)
        if done < count:
            end_s = (first + done) / settings.fps
            raise DataError(task.path, f'ends before it should (at {end_s:.2f} s)', '')
        height, width = shape[:2]
        sequences.append(
            {'name': name, 'start_s': first / settings.fps, 'frames': count, 'height': height, 'width': width}
        )


def expected_clips(frames: int, clip_frames: int) -> int:
    """Clips that do not overlap in a sequence; the last may be shorter."""
    return math.ceil(frames / clip_frames)

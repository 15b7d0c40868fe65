"""Joins videos that were prepared one by one into shards, in the order of the input, and makes the manifest."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

from rvm_jax.data import shard_format
from rvm_jax.data.prepare.encode_video import Settings, expected_clips, work_path
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.shard_manifest import NO_MANIFEST, SPLITS, check_shard
from rvm_jax.storage import files
from rvm_jax.version import version


class ShardPlanner:
    """Decides which tasks make up each shard of one split, whatever order their outcomes come in.

    A shard is closed by the task with which it reaches shard_bytes, counted in the order of the tasks: so the content
    of all shards follows from the tasks and the settings alone.
    """

    def __init__(self, numbers: Iterable[int], shard_bytes: int):
        self._coming = collections.deque(numbers)
        self._shard_bytes, self._bytes = shard_bytes, 0
        self._outcomes: dict[int, int] = {}  # task -> bytes of its records, until those before it are known
        self._open: list[int] = []  # tasks of the shard that is not full yet

    def add(self, number: int, outcome: dict[str, Any]) -> list[list[int]]:
        """Note what came of a task. Returns the shards that are complete now: [[task numbers]]."""
        self._outcomes[number] = outcome.get('bytes', 0)
        full = []
        while self._coming and self._coming[0] in self._outcomes:
            number = self._coming.popleft()
            size = self._outcomes.pop(number)
            if size:
                self._open.append(number)
                self._bytes += size
            if self._open and (self._bytes >= self._shard_bytes or not self._coming):
                full.append(self._open)
                self._open, self._bytes = [], 0
        return full


def shard_name(split: str, index: int) -> str:
    """File name of a shard."""
    return f'{split}-{index:05}.array_record'


def join_shard(output: str, work: str, split: str, index: int, members: Sequence[int]) -> dict[str, Any]:
    """Join the prepared videos (task numbers) to one shard, and return its entry for the manifest.

    The entry is kept with the unfinished work; the videos' own files are removed once it is written.
    """
    name = shard_name(split, index)
    path, entry_path = os.path.join(output, name), os.path.join(work, name + '.json')
    outcomes = [files.read_json(work_path(work, number) + '.json') for number in members]
    sequences = [sequence for outcome in outcomes for sequence in outcome['sequences']]
    records, _ = shard_format.write_shard(path, work, _records(work, members, outcomes), sequences)
    entry = {
        'name': name,
        'split': split,
        'bytes': os.path.getsize(path),
        'records': records,
        'sha256': files.digest(path, 'sha256'),
        'frames': [sequence['frames'] for sequence in sequences],
    }
    files.write_json(entry_path, entry, durable=True)
    for number in members:
        files.remove(work_path(work, number) + '.array_record')
    return entry


def joined(output: str, work: str, split: str, index: int) -> dict[str, Any] | None:
    """The entry of a shard that an earlier start has joined, or None."""
    name = shard_name(split, index)
    try:
        entry = files.read_json(os.path.join(work, name + '.json'))
        check_shard(entry)
        is_this = entry['name'] == name and entry['split'] == split
        return entry if is_this and os.path.getsize(os.path.join(output, name)) == entry['bytes'] else None
    except (OSError, *NO_MANIFEST):
        return None


def _records(work, members, outcomes):
    """The records of frames of all members."""
    for number, outcome in zip(members, outcomes, strict=True):
        reader = shard_format.ShardReader(work_path(work, number) + '.array_record', outcome['records'])
        for record in range(outcome['records'] - 1):
            yield reader.read([record])[0]
        reader.close()


def make_manifest(
    settings: Settings, digest: str, tasks: Sequence[Task], outcomes: Sequence[dict], entries: Sequence[dict]
) -> dict[str, Any]:
    """What goes into manifest.json, from the outcomes of all tasks and the entries of all shards."""
    kept = [(task, outcome) for task, outcome in zip(tasks, outcomes, strict=True) if 'skipped' not in outcome]
    originals = [outcome['original'] for _, outcome in kept]
    return {
        'format': shard_format.FORMAT,
        'version': version(),
        'made_from': digest,
        'settings': dataclasses.asdict(settings),
        'splits': {split: _totals(split, settings, kept) for split in SPLITS},
        'skipped': len(tasks) - len(kept),
        'histograms': {
            'fps': _histogram(f'{original["fps"]:.4g}' if original['fps'] else 'unknown' for original in originals),
            'size': _histogram(f'{original["width"]}x{original["height"]}' for original in originals),
        },
        'shards': entries,
    }


def _totals(split, settings, kept):
    sequences = [s['frames'] for task, outcome in kept if task.split == split for s in outcome['sequences']]
    return {
        'videos': len({task.path for task, _ in kept if task.split == split}),
        'sequences': len(sequences),
        'clips': sum(expected_clips(frames, settings.clip_frames) for frames in sequences),
        'frames': sum(sequences),
        'hours': sum(sequences) / settings.fps / 3600,
    }


def _histogram(values):
    return dict(collections.Counter(values).most_common())


def skipped_report(tasks: Sequence[Task], outcomes: Sequence[dict], outside: Sequence[str]) -> dict[str, Any]:
    """What goes into skipped.json: {reason: [{name, detail}]}, and names that are outside the input's folder."""
    reasons = collections.defaultdict(list)
    for task, outcome in zip(tasks, outcomes, strict=True):
        if 'skipped' in outcome:
            reasons[outcome['skipped'].split(' (')[0]].append({'name': task.name, 'detail': outcome['skipped']})
    return {'reasons': dict(reasons), 'outside_the_input_folder': outside}

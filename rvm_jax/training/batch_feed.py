"""Batches from the loader to the devices, and what was missing on the way: time, videos, reads that failed."""

import collections
import concurrent.futures
import itertools
import os
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from rvm_jax.data.batch import FAILED
from rvm_jax.data.loader import Loader
from rvm_jax.data.mixture import Mixture
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.terminal import say
from rvm_jax.training import sharding
from rvm_jax.training.data_report import FailureLog

LOOKED_AT = 50  # clips of a part of the mixture that are looked at for repeated frames
MOST_REPEATED = 0.5  # share of them from which on a part gets a warning
MOST_WAITING = 0.05  # share of the time that devices wait for data, from which on a run gives advice
LONGEST_US = 2**31 - 1  # the largest integer that a StepExchange holds


class BatchFeed:
    """Takes batches from a loader and places them on the devices of a mesh.

    `counts` are the integers about the latest batch that other processes need as well: videos that failed, videos that
    were too short, reads that were tried again, microseconds of waiting.
    """

    def __init__(
        self, loader: Loader, mesh: Mesh, source: Mixture, wait: 'DataWait', failures: FailureLog, hosts: ProcessGroup
    ):
        self.wait, self.failures = wait, failures
        self.counts = [0, 0, 0, 0]
        self._repeated, self._hosts = RepeatedFrames(source), hosts
        self._loader, self._mesh, self._source = loader, mesh, source
        # (step, record_B) of the step in flight and of the one before it, whose numbers are read now.
        self._records: collections.deque[tuple[int, np.ndarray]] = collections.deque(maxlen=2)

    def next_batch(self) -> dict[str, jax.Array]:
        """The next batch, on the devices. Raises Stopped or DataError if the loader has none, see `Loader`."""
        began = time.perf_counter()
        batch = next(self._loader)
        waited_us = self.wait.since(began)
        for notice in batch['notices']:
            say(notice)
        for notice in self._repeated.notices(batch['record_B'], batch['source_BTHWC']):
            self._hosts.say(notice)
        failures = self.failures.new(batch)
        self.failures.name(failures)
        failed = sum(kind == FAILED for kind, _, _ in failures)
        self.counts = [failed, len(failures) - failed, batch['read_retries'], waited_us]
        self._records.append((batch['step'] + 1, batch['record_B']))
        return sharding.place_batch(self._mesh, batch)

    def records(self, step: int) -> list[int]:
        """Indices of the videos whose clips this process gave to a step: the latest one, or the one before it."""
        (record_B,) = [record_B for of, record_B in self._records if of == step]
        return record_B.tolist()

    def names(self, records: list[int]) -> list[str]:
        """Names of videos by their indices."""
        return [self._source[record].name for record in records]

    def worker_memory(self) -> int:
        """Bytes of memory of the largest worker of the loader, 0 without workers."""
        return max(self._loader.resident_bytes().values(), default=0)


class RepeatedFrames:
    """Tells of a part of the mixture whose clips show a source frame twice in a row, by its first clips.

    Such a clip has fewer distinct frames than the model is told: its video has fewer frames per second than the clip
    wants (Something-Something V2 has 12, and RVM's Table 4 asks for 25), or nothing moves in it. Where each frame has a
    crop of its own (data.crop_level=frame), repeated frames differ and are not found.
    """

    def __init__(self, mixture: Mixture):
        self._mixture = mixture
        self._clips = [0] * len(mixture.parts)
        self._repeated = [0] * len(mixture.parts)

    def notices(self, record_B: np.ndarray, source_BTHWC: np.ndarray) -> list[str]:
        """Look at a batch; a line for each part that has shown enough clips, and too many with repeated frames."""
        if min(self._clips) >= LOOKED_AT:
            return []
        lines = []
        for record, source_THWC in zip(record_B.tolist(), source_BTHWC, strict=True):
            number = self._mixture.part(record)
            if self._clips[number] >= LOOKED_AT:
                continue
            self._clips[number] += 1
            pairs = itertools.pairwise(source_THWC)
            self._repeated[number] += any(np.array_equal(one, following) for one, following in pairs)
            if self._clips[number] == LOOKED_AT and self._repeated[number] > MOST_REPEATED * LOOKED_AT:
                lines.append(self._line(number))
        return lines

    def _line(self, number):
        part = self._mixture.parts[number]
        return (
            f'{part.source.path}: {self._repeated[number]} of the first {LOOKED_AT} clips show a source frame twice in '
            f'a row: the videos have fewer than {part.fps:g} frames per second, or nothing moves; lower '
            f'{"the rate of this part in config.data.mixture" if len(self._clips) > 1 else "config.data.fps"}'
        )


class DataWait:
    """Adds up, since `restart`, how long the devices of each process were idle because the next batch was not ready.

    A process that waits delays all others at the next exchange between devices, so the longest wait counts. The advice
    is given once in a start of a run.
    """

    def __init__(self, data: ml_collections.ConfigDict, mixture: Mixture):
        self._num_workers, self._mixture = data.num_workers, mixture
        self._watcher = concurrent.futures.ThreadPoolExecutor(1)
        self._idle: concurrent.futures.Future[float] | None = None  # when the step in flight was done
        self._waited_s, self._is_said = np.zeros(1), False

    def watch(self, metrics: Any) -> None:
        """Note when a step that was just started is done: when its metrics are there."""
        self._idle = self._watcher.submit(_when_ready, metrics)

    def since(self, began: float) -> int:
        """Microseconds since `began` (time.perf_counter) in which no step was in flight."""
        now = time.perf_counter()
        if self._idle is None or not self._idle.done():
            return 0
        return min(round(1e6 * max(0.0, now - max(began, self._idle.result()))), LONGEST_US)

    def done_at(self) -> float:
        """When (time.perf_counter) the latest step was done; waits for it. Call it after `watch`."""
        if self._idle is None:
            raise RuntimeError('no step was watched')
        return self._idle.result()

    def restart(self) -> None:
        """Set the sums to zero."""
        self._waited_s = np.zeros(1)

    def add(self, waited_us: np.ndarray) -> None:
        """Add how long each process waited before a step, in microseconds."""
        self._waited_s = self._waited_s + np.asarray(waited_us) / 1e6

    def share(self, seconds: float) -> float:
        """Fraction of these seconds that the slowest process has waited."""
        return min(float(self._waited_s.max()) / seconds, 1.0)

    def advice(self, share: float, most: float = MOST_WAITING) -> str | None:
        """One line, once, if the share is above `most`; else None."""
        if share <= most or self._is_said:
            return None
        self._is_said = True
        where = f' of process {self._waited_s.argmax()}' if len(self._waited_s) > 1 else ''
        return (
            f'the devices{where} wait for data {share:.0%} of the time: {self._fix()}; docs/data.md says how many '
            'cores are needed'
        )

    def close(self) -> None:
        """End the thread that watches."""
        self._watcher.shutdown(wait=False, cancel_futures=True)

    def _fix(self):
        cores, fixes = len(os.sched_getaffinity(0)), []
        if self._num_workers < cores:
            fixes.append(f'raise --config.data.num_workers ({self._num_workers} now, {cores} cores here)')
        if any(isinstance(part.source, FolderSource) for part in self._mixture.parts):
            fixes.append('turn the videos into shards, which are many times faster to read, with rvm prepare')
        return ', or '.join(fixes) or 'take hosts with more cores, or a larger model, which needs fewer clips a second'


def _when_ready(metrics):
    jax.block_until_ready(metrics)
    return time.perf_counter()

"""How long the devices stand still for want of clips, and what to do about it."""

import concurrent.futures
import os
import time

import jax
import numpy as np

from rvm_jax.data.sources.folder import FolderSource

MOST = 0.05  # share of the time beyond which the run says so
LONGEST_US = 2**31 - 1  # what fits into a note between processes


class DataWait:
    """Adds up, since `restart`, how long each process's devices had nothing to do because the next batch was not there.

    A process that waits holds up all others at the next exchange between devices, so the longest wait is the one that
    counts. The advice is given once in a start of a run.
    """

    def __init__(self, data, mixture):
        self._num_workers, self._mixture = data.num_workers, mixture
        self._watcher = concurrent.futures.ThreadPoolExecutor(1)
        self._idle = None  # future: the time at which the step in flight was done
        self._waited_s, self._is_said = np.zeros(1), False

    def watch(self, metrics):
        """Note when a step that was just started is done."""
        self._idle = self._watcher.submit(_when_ready, metrics)

    def since(self, began):
        """Microseconds, of those since `began` (time.perf_counter), in which no step was in flight."""
        now = time.perf_counter()
        if self._idle is None or not self._idle.done():
            return 0
        return min(round(1e6 * max(0.0, now - max(began, self._idle.result()))), LONGEST_US)

    def done_at(self):
        """When (time.perf_counter) the step watched last was done; waits for it."""
        return self._idle.result()

    def restart(self):
        """Forget what was added."""
        self._waited_s = np.zeros(1)

    def add(self, waited_us):
        """Add what each process waited before a step, in microseconds."""
        self._waited_s = self._waited_s + np.asarray(waited_us) / 1e6

    def share(self, seconds):
        """Fraction of these seconds that the process which waited longest has waited."""
        return min(float(self._waited_s.max()) / seconds, 1.0)

    def advice(self, share):
        """One line, once, if the share is too large; else None."""
        if share <= MOST or self._is_said:
            return None
        self._is_said = True
        where = f' of process {self._waited_s.argmax()}' if len(self._waited_s) > 1 else ''
        return (
            f'the devices{where} wait for data {share:.0%} of the time: {self._fix()}; docs/data.md says how many '
            'cores feed one'
        )

    def close(self):
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

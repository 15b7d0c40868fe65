"""What is counted and logged around the steps: pace, time spent waiting for data, skipped videos and steps."""

import collections
import concurrent.futures
import os
import time

import jax
import numpy as np

from rvm_jax.data.batch import FAILED
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.distributed.step_exchange import StepExchange
from rvm_jax.errors import Diverged
from rvm_jax.models import cost
from rvm_jax.terminal import say
from rvm_jax.training import hardware, sharding
from rvm_jax.training.data_report import FailureLog, read_report
from rvm_jax.training.optimizer import learning_rate
from rvm_jax.training.writer import SKIPPED

MOST_SKIPPED = 100  # videos that are named for a skipped step
MOST_NAMED = 1000  # failures whose reasons a process hands on between two logged steps
MOST_WAITING = 0.05  # share of the time that devices wait for data, beyond which the run says so
LONGEST_US = 2**31 - 1  # what a StepExchange holds


class RunLog:
    """Takes batches from the loader and numbers from the steps, and logs every config.log.every steps.

    Numbers of a step are read one step later, while the next one runs, so the device never waits for the host. What the
    processes tell each other at a step, with it: `StepExchange`.
    """

    def __init__(self, config, arch, workdir, hosts, mesh, source, loader, writer, progress, stop):
        self._config, self._hosts, self._mesh, self._source, self._stop = config, hosts, mesh, source, stop
        self._clip_flops = cost.train_flops(
            arch,
            num_source=config.data.num_source,
            num_target=config.data.num_target,
            image_size=config.data.image_size,
        )
        self._loader, self._writer, self._progress = loader, writer, progress
        self._failures = _failure_log(os.path.join(workdir, 'data_report.json'), config.data.max_failures, hosts)
        self._notes, self._unnamed = (
            StepExchange(mesh),
            [],
        )  # failures whose reasons the first process does not know yet
        self._learning_rate = learning_rate(config.optim, config.steps)
        self._records = collections.deque(maxlen=2)  # (step, record_B) of the step in flight and of the one before it
        self._pending = None  # (step, metrics) of the step in flight
        self._clock_step = None  # the clock starts when the first step, which compiles, is done
        self._wait = DataWait(config.data, source)
        self._read_retries = 0  # of all processes, in this start of the run

    def next_batch(self):
        """The next batch on the devices; counts the wait, and the videos that had to be replaced."""
        began = time.perf_counter()
        batch = next(self._loader)
        self._waited_us = self._wait.since(began)
        self._failed, self._retried = self._failures.new(batch), batch['read_retries']
        for notice in batch['notices']:
            say(notice)
        if self._hosts.is_first:
            self._failures.name(self._failed)
        else:
            self._unnamed += self._failed
        self._records.append((batch['step'] + 1, batch['record_B']))
        return sharding.place_batch(self._mesh, batch)

    def finish(self, step, metrics):
        """Take note of a step that was started, and read the numbers of the one before it.

        Tells the other processes which signal came to this one, and how many videos failed here.
        """
        self._log_pending()
        self._pending = step, metrics
        self._wait.watch(metrics)
        self._hosts.stepped(step)
        failed = sum(kind == FAILED for kind, _, _ in self._failed)
        too_short = len(self._failed) - failed
        self._notes.send([step - 1, self._stop.kind, failed, too_short, self._retried, self._waited_us])
        if self._hosts.count == 1:  # nothing to wait for
            self._hear()

    def flush(self, held_out=None):
        """Wait for the step in flight, and log it if it is its turn or has held-out losses.

        Raises Diverged, and DataError when too many videos failed: in all processes at the same step.
        """
        step = self._pending and self._pending[0]
        self._log_pending(held_out)
        if step is not None and step == self._clock_step:
            self._clock = time.perf_counter()  # evaluations and saves so far are not the pace of training

    def _log_pending(self, held_out=None):
        self._hear()
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        in_a_row = int(metrics['skipped_in_a_row'])
        if in_a_row:
            self._note_skipped(step, in_a_row)
        if self._clock_step is None:
            self._start_clock(step)
        if held_out or step % self._config.log.every == 0 or step == self._config.steps:
            scalars = self._scalars(step, metrics)
            self._progress.update(step, scalars)
            if self._hosts.is_first and (advice := self._wait.advice(scalars.get('data_wait', 0))):
                say(advice)
            self._writer.scalars(step, scalars | (held_out or {}))
            self._share_failures()
            self._writer.report(self._failures)
            self._start_clock(step)
        else:
            self._progress.update(step)

    def close(self):
        """Write down which videos failed."""
        self._wait.close()
        self._share_failures()
        self._writer.report(self._failures)

    def _hear(self):
        """Act on what all processes told at a step: `stop` learns of signals, failed videos are counted."""
        heard = self._notes.read()
        if heard is not None:
            self._stop.agree(heard[:, 1])
            failed, too_short, retried = map(int, heard[:, 2:5].sum(0))
            self._failures.count(int(heard[0, 0]), self._config.batch_size, failed, too_short)
            self._read_retries += retried
            self._wait.add(heard[:, 5])

    def _share_failures(self):
        """Hand the latest reasons to the first process, or take in what the others left there so far."""
        if self._hosts.is_first:
            for failures in self._hosts.collect('failures'):
                self._failures.name(failures)
        elif self._unnamed:
            self._hosts.post('failures', self._unnamed[:MOST_NAMED])
        self._unnamed = []

    def _start_clock(self, step):
        self._clock, self._clock_step = self._wait.done_at(), step
        self._wait.restart()

    def _scalars(self, step, metrics):
        scalars = {
            'loss': float(metrics['loss']),
            'learning_rate': float(self._learning_rate(step - 1)),
            'grad_norm': float(metrics['grad_norm']),
            'skipped_videos': self._failures.report['failed'],
            'skipped_steps': int(metrics['skipped_steps']),
        }
        if memory := self._loader.resident_bytes():
            scalars['worker_memory_mb'] = max(memory.values()) / 2**20
        if self._read_retries:
            scalars['read_retries'] = self._read_retries
        steps, seconds = step - self._clock_step, self._wait.done_at() - self._clock
        return scalars | self._pace(steps, seconds) if steps else scalars

    def _pace(self, steps, seconds):
        config, devices = self._config, self._mesh.devices
        clips = steps * config.batch_size / seconds
        peak = hardware.device_peak(devices.flat[0], config.model.precision)
        pace = {
            'clips_per_second': clips,
            'clips_per_second_per_device': clips / devices.size,
            'data_wait': self._wait.share(seconds),
        }
        return pace | ({'mfu': clips * self._clip_flops / (peak * devices.size)} if peak else {})

    def _note_skipped(self, step, in_a_row):
        """Write down whose clips made a step that was skipped; Diverged if there are too many in a row.

        All processes come here at the same step.
        """
        (mine,) = [records for of, records in self._records if of == step]
        records = sorted(set(np.concatenate(self._hosts.all_gather(mine.tolist())).astype(int)))
        self._writer.skipped(step, [self._source[record].name for record in records[:MOST_SKIPPED]], len(records))
        if in_a_row >= self._config.optim.max_nonfinite:
            names = ', '.join(self._source[record].name for record in records[:4])
            more = f' and {len(records) - 4} more' if len(records) > 4 else ''
            raise Diverged(
                f'step {step}',
                f'{in_a_row} steps in a row were not finite, the last on {names}{more}; see {SKIPPED}',
                'the last checkpoint is good: start a new run from it with --config.init_from, and a lower '
                'optim.peak_lr',
            )


def _failure_log(path, max_failures, hosts):
    """A FailureLog that goes on from the report in a file: the first process reads it, the others need no reasons."""
    whole = {}
    counts = hosts.broadcast_from_first(lambda: whole.update(read_report(path)) or whole | {'reasons': {}})
    return FailureLog(path, max_failures, whole or counts)


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
        if share <= MOST_WAITING or self._is_said:
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

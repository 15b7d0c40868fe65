"""Prepares the videos on all cores of this machine."""

import collections
import concurrent.futures
import contextlib
import faulthandler
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from rvm_jax.data import workers
from rvm_jax.data.prepare.encode_video import Settings, outcome_of, prepare_task, record_outcome
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.prepare.join_shards import ShardPlanner, join_shard, joined
from rvm_jax.data.prepare.prepare_job import PrepareJob
from rvm_jax.data.shard_manifest import SPLITS
from rvm_jax.errors import Stopped
from rvm_jax.signals import StopRequest
from rvm_jax.storage import files
from rvm_jax.terminal import progress_bars

LIVES = 2  # times that a video may crash its process before it is skipped
HUNG = 1  # exit code of a process whose timer ran out
TIMEOUT = 60.0  # seconds without a frame after which a video is given up


def run_here(work: PrepareJob, num_workers: int, timeout_s: float) -> tuple[list[dict], list[dict]]:
    """All outcomes and shards of a job that has begun, with a progress bar. Raises Stopped on a signal; see `Pool`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn('videos'), BarColumn(), MofNCompleteColumn(), TextColumn('{task.fields[skipped]} skipped'), \
        TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn()  # fmt: skip
    skipped = 0
    with progress_bars(*columns) as progress, StopRequest(interrupts=True) as stop:
        bar = progress.add_task('videos', total=len(work.tasks), skipped=skipped)

        def on_done(_task, outcome):
            nonlocal skipped
            skipped += 'skipped' in outcome
            progress.update(bar, advance=1, skipped=skipped)

        try:
            return Pool(work, num_workers, timeout_s, on_done).run()
        except KeyboardInterrupt:
            stop.check(f'{int(progress.tasks[0].completed):,} of {len(work.tasks):,} videos are done')
            raise


class Pool:
    """Runs all tasks of a PrepareJob, and joins their results to shards as soon as they are known.

    A video that gives no frame for timeout_s seconds is skipped, and so is one whose decoder ends its process twice.
    """

    def __init__(self, work: PrepareJob, num_workers: int, timeout_s: float, on_done: Callable[[Task, dict], None]):
        self._work, self._num_workers, self._timeout_s, self._on_done = work, num_workers, timeout_s, on_done
        settings = work.settings
        numbers = {split: [n for n, task in enumerate(work.tasks) if task.split == split] for split in SPLITS}
        self._cutters = {split: ShardPlanner(numbers[split], settings.shard_bytes) for split in SPLITS}
        self._num_shards: collections.Counter[str] = collections.Counter()
        self._entries: dict[tuple[str, int], dict] = {}  # (split, index) -> entry in the manifest
        self._deaths: collections.Counter[Any] = collections.Counter()

    def run(self) -> tuple[list[dict], list[dict]]:
        """All outcomes in order, and the entries of all shards. Raises Stopped if the disk gives up."""
        import multiprocessing

        from pebble import ProcessPool

        self._outcomes: dict[int, dict] = {}
        self._jobs: dict[Any, Any] = {}  # future -> what it works on
        waiting = collections.deque(range(len(self._work.tasks)))
        self._pool = ProcessPool(
            self._num_workers, initializer=start_process, context=multiprocessing.get_context('spawn')
        )
        with blocked(signal.SIGINT, signal.SIGHUP):  # inherited by threads and processes: only this thread gets them
            self._pool.active  # noqa: B018, starts them
        try:
            while waiting or self._jobs:
                while waiting and len(self._jobs) < 2 * self._num_workers:
                    self._begin(waiting.popleft())
                done, _ = concurrent.futures.wait(self._jobs, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    self._end(future, self._jobs.pop(future))
            self._pool.close()
        finally:
            self._pool.stop()
            self._pool.join()
        outcomes = [self._outcomes[number] for number in range(len(self._work.tasks))]
        return outcomes, [self._entries[key] for key in sorted(self._entries)]

    def _begin(self, number):
        outcome = outcome_of(self._work.folder, number)
        if outcome is not None:
            self._finish(number, outcome)
        else:
            work = self._work
            act = functools.partial(
                prepare_guarded, number, work.tasks[number], work.settings, work.folder, self._timeout_s
            )
            self._schedule(act, number)

    def _schedule(self, act, what):
        self._jobs[self._pool.schedule(act)] = act, what

    def _end(self, future, job):
        from pebble import ProcessExpired

        act, what = job
        try:
            result = future.result()
        except ProcessExpired as error:
            self._deaths[what] += 1
            if self._deaths[what] < LIVES and error.exitcode != HUNG:
                return self._schedule(act, what)
            if isinstance(what, tuple):
                raise Stopped(f'{what[0]} shard {what[1]}: its process died ({error}); start again') from error
            result = {'skipped': reason_of_death(error.exitcode, self._timeout_s)}
            record_outcome(self._work.folder, what, result)
        except OSError as error:
            raise Stopped(
                f'{error.filename or self._work.output}: {error.strerror}; what is finished is kept, the same command '
                'resumes once this is corrected'
            ) from error
        if isinstance(what, tuple):
            self._entries[what] = result
        else:
            self._finish(what, result)

    def _finish(self, number, outcome):
        """Note what came of a task, and join the shards that it completes."""
        self._outcomes[number] = outcome
        task = self._work.tasks[number]
        self._on_done(task, outcome)
        for members in self._cutters[task.split].add(number, outcome):
            index = self._num_shards[task.split]
            self._num_shards[task.split] += 1
            where = self._work.output, self._work.folder, task.split, index
            entry = joined(*where)
            if entry:
                self._entries[task.split, index] = entry
            else:
                self._schedule(functools.partial(_join, *where, members), (task.split, index))


@contextlib.contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    """Within this context signals do not reach this thread; threads and processes that it starts never get them."""
    resource_tracker.ensure_running()  # first: when multiprocessing starts it, it unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reason_of_death(exit_code: int, timeout_s: float) -> str:
    """Why a video is skipped whose process ended with an exit code."""
    if exit_code == HUNG:
        return f'takes too long to decode (no frame in {timeout_s:g} s, its process was ended)'
    return f'ends the process that decodes it ({LIVES} times, exit code {exit_code})'


def start_process() -> None:
    """Set up a new process, which ends when its parent does."""
    import cv2

    threading.Thread(target=workers.end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def prepare_guarded(number: int, task: Task, settings: Settings, folder: str, timeout_s: float) -> dict[str, Any]:
    """prepare_task, in a process that ends when the decoder gives no frame for timeout_s seconds.

    The timer of faulthandler needs no interpreter: it also ends a decoder that hangs in C code.
    """
    with open(os.devnull, 'w') as nowhere:

        def heartbeat():
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)

        heartbeat()
        try:
            return files.retried(task.path, lambda: prepare_task(number, task, settings, folder, heartbeat))
        finally:
            faulthandler.cancel_dump_traceback_later()


def _join(output, folder, split, index, members):
    return files.retried(output, lambda: join_shard(output, folder, split, index, members))

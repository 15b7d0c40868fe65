"""Prepares the videos by an Apache Beam pipeline, on as many machines as its runner has.

Two pipelines run one after the other: the first prepares each video, the second joins them to shards. Between them this
process decides which videos make up each shard. All results are files in OUTPUT/unfinished, the same as the local
pool's. So either can resume what the other has begun, and whatever Beam runs a second time finds what is done. Hence
OUTPUT and the videos must have the same paths on every worker (NFS, Filestore, Lustre, gcsfuse), and rvm_jax[beam] must
be installed there.

Each worker thread of Beam decodes in a process of its own, as a video may hang or crash its decoder. A runner that
starts more threads than there are cores and memory for takes --number_of_worker_harness_threads=1.
"""

import dataclasses
import functools
import json
import logging
import multiprocessing.pool
import os
import signal
import socket
import time
from collections.abc import Sequence

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from rvm_jax.data.prepare.encode_video import Settings, outcome_of, record_outcome
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.prepare.join_shards import ShardPlanner, join_shard, joined
from rvm_jax.data.prepare.prepare_job import PrepareJob
from rvm_jax.data.prepare.prepare_pool import HUNG, LIVES, blocked, prepare_guarded, reason_of_death, start_process
from rvm_jax.data.shard_manifest import SPLITS
from rvm_jax.errors import Stopped, Unavailable, UserError
from rvm_jax.storage import files

IN_A_FILE = 1000  # elements: some runners refuse a pipeline that holds a million itself
READERS = 32  # threads: they wait for disks and networks
LATE_S = 60.0  # after which a network file system shows what other machines wrote
TELL = ('dataflow', 'portability.portable_runner')  # the modules of apache_beam.runners that log the state of a job
QUIET = ('--default_sdk_harness_log_level=ERROR',)  # of workers; it comes first, so that a user's flag replaces it
SEEN = 'take paths that every worker sees, such as those of NFS, Filestore, Lustre or gcsfuse'


def run_pipeline(
    work: PrepareJob, runner: str, flags: Sequence[str], timeout_s: float
) -> tuple[list[dict], list[dict]]:
    """All outcomes in order, and the entries of all shards, from pipelines on a Beam runner with Beam's flags.

    A video is skipped where the local pool skips it. UserError if Beam refuses runner or flags; Stopped if a pipeline
    fails, with what is finished kept.
    """
    output, folder = os.path.abspath(work.output), os.path.abspath(work.folder)
    run = functools.partial(_run, [f'--runner={runner}', *flags], folder)
    outcomes = _read_all(functools.partial(outcome_of, folder), range(len(work.tasks)))
    videos = [
        [number, *dataclasses.astuple(dataclasses.replace(task, path=os.path.abspath(task.path)))]
        for number, task in enumerate(work.tasks)
        if outcomes[number] is None
    ]
    run('videos', videos, beam.ParDo(PrepareVideo(folder, work.settings, timeout_s)))
    outcomes = _await_all(lambda number: outcomes[number] or outcome_of(folder, number), range(len(work.tasks)))

    def entry(shard):
        return joined(output, folder, *shard[:2])

    plan = _cut(work, outcomes)
    run('shards', [shard for shard, found in zip(plan, _read_all(entry, plan), strict=True) if not found],
        beam.Map(_join, output, folder))  # fmt: skip
    return outcomes, _await_all(entry, plan)


class PrepareVideo(beam.DoFn):
    """Makes the video of a line [number, *task], unless that is done."""

    def __init__(self, folder: str, settings: Settings, timeout_s: float):
        self._folder, self._settings, self._timeout_s = folder, settings, timeout_s

    def setup(self) -> None:
        """Start the process that decodes."""
        from pebble import ProcessPool

        self._pool = ProcessPool(1, initializer=start_process, context=multiprocessing.get_context('spawn'))
        with blocked(signal.SIGINT, signal.SIGHUP):  # only this process gets them
            self._pool.active  # noqa: B018, starts the other

    def process(self, line: str) -> None:
        """Leave the outcome in the folder. UserError if this worker does not see the files."""
        number, *values = json.loads(line)
        task = Task(*values)
        _check_sees(self._folder)
        if task.bytes >= 0:  # it was there when the work was listed
            _check_sees(os.path.dirname(task.path))
        if outcome_of(self._folder, number) is None:
            self._prepare(number, task)

    def _prepare(self, number, task):
        from pebble import ProcessExpired

        for _ in range(LIVES):
            try:
                job = prepare_guarded, (number, task, self._settings, self._folder, self._timeout_s)
                self._pool.schedule(*job).result()
                return
            except ProcessExpired as error:
                exit_code = error.exitcode
            if exit_code == HUNG:
                break
        record_outcome(self._folder, number, {'skipped': reason_of_death(exit_code, self._timeout_s)})

    def teardown(self) -> None:
        """End the process."""
        self._pool.stop()
        self._pool.join()


def _join(line, output, folder):
    """Join the shard of a line [split, index, members], unless that is done."""
    split, index, members = json.loads(line)
    _check_sees(folder)
    if not joined(output, folder, split, index):
        files.retried(output, lambda: join_shard(output, folder, split, index, members))


def _check_sees(folder):
    if not os.path.isdir(folder):
        raise UserError(folder, f'does not exist on the worker {socket.gethostname()}', SEEN)


def _cut(work, outcomes):
    """[(split, index, task numbers)] of all shards, in the order of the manifest."""
    plan = []
    for split in SPLITS:
        numbers = [number for number, task in enumerate(work.tasks) if task.split == split]
        cutter = ShardPlanner(numbers, work.settings.shard_bytes)
        found = [members for number in numbers for members in cutter.add(number, outcomes[number])]
        plan += [(split, index, members) for index, members in enumerate(found)]
    return plan


def _read_all(read, keys):
    with multiprocessing.pool.ThreadPool(READERS) as pool:
        return pool.map(read, keys)


def _await_all(read, keys):
    """What workers wrote. Stopped if some of it does not appear."""
    give_up = time.monotonic() + LATE_S
    while None in (found := _read_all(read, keys)):
        if time.monotonic() > give_up:
            raise Stopped(f'{found.count(None):,} of {len(found):,} results of the workers do not appear here; {SEEN}')
        time.sleep(1)
    return found


def _run(flags, folder, name, values, step):
    """Run a step on all values, each as a line of JSON. UserError if Beam refuses the flags, Stopped if it fails."""
    if not values:
        return
    pipeline = _make_pipeline(flags)
    lines = pipeline | beam.Create(_write_lines(folder, name, values)) | beam.FlatMap(_read_lines)
    _ = lines | beam.Reshuffle() | name >> step
    print(f'{len(values):,} {name} to make', flush=True)
    try:
        _wait(pipeline.run())
    except (RuntimeError, grpc.RpcError, grpc.FutureTimeoutError) as error:  # RuntimeError: any error of a worker
        reason = _reason(error)
        if reason == KeyboardInterrupt.__name__:  # where the worker is this process
            raise KeyboardInterrupt from None
        raise Stopped(f'the pipeline failed: {reason}; what is finished is kept, the same command resumes') from error


def _write_lines(folder, name, values):
    paths: list[str] = []
    for first in range(0, len(values), IN_A_FILE):
        paths.append(os.path.join(folder, f'{name}-{len(paths):05}.jsonl'))
        lines = (json.dumps(value) for value in values[first : first + IN_A_FILE])
        files.write(paths[-1], '\n'.join(lines).encode())
    return paths


def _read_lines(path):
    return files.read(path).decode().splitlines()


def _make_pipeline(flags):
    """A pipeline that logs errors and the state of a job, and nothing else."""
    logging.getLogger('apache_beam.runners').setLevel(logging.ERROR)
    for name in TELL:
        logging.getLogger(f'apache_beam.runners.{name}').setLevel(logging.INFO)
    logging.getLogger('apache_beam.runners.common').addFilter(_is_bug)
    try:
        return beam.Pipeline(options=PipelineOptions([*QUIET, *flags]))
    except (ValueError, ImportError, AttributeError) as error:
        reason = ' '.join(str(error).split()).strip('.')
        raise UserError(flags[0], f'Beam refuses it ({reason})', "see Beam's page on this runner") from error


def _is_bug(record):
    """Whether Beam should log this error of a worker, with its traceback: not if _reason(error) says it all."""
    error = record.exc_info and record.exc_info[1]
    return not isinstance(error, (OSError, UserError, Unavailable, KeyboardInterrupt))


def _wait(result):
    try:
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        result.cancel()
        raise
    if state != PipelineState.DONE:
        raise RuntimeError(f'its state is {state}')


def _reason(error):
    """The last line of what Beam says, as the others are a traceback."""
    lines = str(error).strip().splitlines() or [f'{type(error).__name__}, there may be no job server']
    return lines[-1].split(' [while running')[0].removeprefix('rvm_jax.errors.UserError: ').strip(' .')

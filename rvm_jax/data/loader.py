"""source -> clips -> augmentation -> batches of this process, from any step on.

Row r of the global batch of step s is sample s x batch_size + r of an endless shuffled stream of records. Which record
that is, and every random draw for it, follow from (seed, sample) and the list of records alone, so neither the number
of worker processes nor of hosts nor a restart can change a batch: the position of the data is the step.

A record that gives no clip is replaced by another of the same part of the mixture, drawn by the same rule from (seed,
sample, attempt). One that cannot be read because a disk or network fails is not replaced: it is tried again, and if
that does not help the run stops, so that a fault that may pass never changes a batch.

Two buffers keep the device from waiting. Each worker process makes clips ahead, up to its share of one batch, while the
training process takes those that are ready (`_start`). And a thread of the training process stacks the next batch while
the device computes on the present one. More of either would only hold more memory: the workers are the slow part.
"""

import functools
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rvm_jax.data import workers
from rvm_jax.data.augment import augment_clip, center_crop_resize
from rvm_jax.data.batch import FAILED, TOO_SHORT, check_batch, stack_clips
from rvm_jax.data.clips import TooShort, choose_clip
from rvm_jax.data.mixture import Mixture
from rvm_jax.data.shared_memory import SharedFrameBuffer, share_frames, slots_bytes
from rvm_jax.errors import DataError, Stopped, Unavailable
from rvm_jax.storage import files

if TYPE_CHECKING:  # workers import this file, and need no config
    from ml_collections import ConfigDict

MAX_ATTEMPTS = 10
SAMPLING = ('num_source', 'num_target', 'clip_frames', 'min_gap', 'max_gap', 'source_start', 'delta_from')
AUGMENTATION = ('flip', 'crop_area', 'crop_ratio', 'crop_level', 'resize')


def make_loader(
    mixture: Mixture,
    data: 'ConfigDict',
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
) -> 'Loader':
    """Endless training batches from start_step on: an iterator to close, or to use in a `with` statement.

    mixture gives the videos; data is `config.data`; batch_size counts clips over all processes, of which this one
    makes the given rows, in their order (None: all).
    """
    clips = ClipMaker(mixture, data, seed=seed, order=mixture.order(seed), is_training=True)
    return Loader(clips, data, batch_size, start_step, range(batch_size) if rows is None else rows)


def make_eval_clips(
    mixture: Mixture,
    data: 'ConfigDict',
    *,
    num_clips: int,
    batch_size: int,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the same held-out clips each time: records in order, central crops, no flip.

    num_clips is rounded down to whole batches, but one batch at least.
    """
    order = functools.partial(_record_in_order, len(mixture))
    clips = ClipMaker(mixture, data, seed=seed, order=order, is_training=False)
    with Loader(clips, data, batch_size, 0, range(batch_size) if rows is None else rows) as loader:
        for _ in range(max(1, num_clips // batch_size)):
            yield next(loader)


def _record_in_order(num_records, sample):
    return sample % num_records


class ClipMaker:
    """Number of a sample -> clip. Pure, apart from time limits; sent to the workers, so it holds plain data only."""

    def __init__(self, mixture, data, *, seed, order, is_training):
        self.mixture, self.seed, self.order, self.is_training = mixture, seed, order, is_training
        self.image_size, self.timeout_s = data.image_size, data.decode_timeout
        self.sampling = {name: data[name] for name in SAMPLING}
        self.augmentation = {name: data[name] for name in AUGMENTATION}
        self.notes: str | None = None  # folder where workers leave a note on what they read, see workers.py
        self.given_up: dict[int, str] = {}  # record -> why no worker may try it again

    def __call__(self, sample: int) -> dict[str, Any]:
        """{frames_THWC, deltas_F, record, failures, read_retries} of a clip; the target comes after the source.

        Only {failures, read_retries} if no attempt gave one. Stopped if a file could not be read after many retries.
        """
        retries = files.retries.total()
        try:
            clip = self._attempts(sample)
        except Unavailable as error:
            raise Stopped(str(error)) from error  # so that the run saves what is done
        return clip | {'read_retries': files.retries.total() - retries}

    def _attempts(self, sample):
        failures: list[tuple[str, str, str]] = []
        tried: list[int] = []
        record = self.order(sample)
        others = self.mixture.neighbors(record)
        for attempt in range(min(MAX_ATTEMPTS, len(others))):
            if attempt:
                record = _draw_other(np.random.default_rng([self.seed, sample, attempt, 1]), others, tried)
            tried.append(record)
            found = self.mixture[record]
            read = functools.partial(self._read_afresh, record, [self.seed, sample, attempt])
            try:
                return {**files.retried(found.name, read), 'record': record, 'failures': failures}
            except DataError as error:
                kind = TOO_SHORT if isinstance(error, TooShort) else FAILED
                failures.append((kind, found.name, error.reason))
        return {'failures': failures}

    def _read_afresh(self, record, seeds):
        return self.read(record, np.random.default_rng(seeds))  # each try draws the same clip

    def read(self, record: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """{frames_THWC, deltas_F} of one record.

        DataError if it gives no clip; OSError that may pass, if a disk or network fails.
        """
        found, fps = self.mixture[record], self.mixture.fps(record)
        if record in self.given_up:
            raise DataError(found.name, self.given_up[record], 'remove or re-encode this video')
        with workers.note(self.notes, record, found.name, self.timeout_s), found.open(self.timeout_s) as video:
            clip = choose_clip(rng, video.count(fps), **self.sampling)
            ticks, places = np.unique(np.concatenate([clip.source, clip.target]), return_inverse=True)
            pictures = video.pictures(ticks, fps).take(places)
            if self.is_training:
                frames_THWC = augment_clip(rng, pictures, image_size=self.image_size, **self.augmentation)
            else:
                frames_THWC = center_crop_resize(pictures, self.image_size, self.augmentation['resize'])
        return {'frames_THWC': frames_THWC, 'deltas_F': clip.deltas}


def _draw_other(rng, records, tried):
    """One of a range of records, drawn uniformly from those not yet tried."""
    draw = int(rng.integers(records.start, records.stop - len(tried)))
    for record in sorted(tried):
        draw += draw >= record
    return draw


class Loader:
    """Iterator over this process's batches; see `batch.py`. `step` is the step of the next one.

    DataError if none of 10 records gave a clip; Stopped if a file could not be read after many tries. A worker that
    hangs in a decoder beyond the time limit is ended, its file given up, and the batch made again without it. If a
    worker dies otherwise, the batch is made again by new ones; the second time it is Stopped, with the file that it was
    reading.
    """

    def __init__(self, clips, data, batch_size, start_step, rows):
        self.step = start_step
        self._clips, self._notices, self._has_lost_worker = clips, [], False
        self._batch_size, self._rows = batch_size, np.asarray(rows)
        self._shape = {'num_source': data.num_source, 'num_target': data.num_target, 'image_size': data.image_size}
        self._num_workers = data.num_workers
        self._buffer = _share(self._num_workers, len(self._rows))
        if self._num_workers:
            self._slots = SharedFrameBuffer(
                _num_slots(self._num_workers, len(self._rows)), data.num_source + data.num_target, data.image_size
            )
            clips.notes = tempfile.mkdtemp(prefix='rvm_loader_')
        self._iterator = self._start()

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        while True:
            try:
                batch = next(self._iterator)
                break
            except RuntimeError as error:  # what Grain raises for a worker that is gone
                self._recover(error)
        batch['step'], batch['notices'] = self.step, self._notices
        self._notices = []
        self.step += 1
        return check_batch(batch, batch_size=len(self._rows), **self._shape)

    def close(self) -> None:
        """End the workers and wait for them."""
        if self._iterator is None:
            return
        self._end_workers()
        self._iterator = None  # dropped here, because at the interpreter's end Grain's own clean-up prints errors
        if self._num_workers:
            self._slots.close()
            shutil.rmtree(self._clips.notes, ignore_errors=True)

    def _end_workers(self):
        if not self._num_workers:
            self._iterator.close()
            return
        self._slots.give_up()
        with workers.patience(self._clips.notes):
            self._iterator.close()

    def resident_bytes(self) -> dict[int, int]:
        """{process id: bytes of memory} of the workers; {} without workers."""
        return workers.resident_bytes(self._clips.notes) if self._clips.notes else {}

    def _start(self):
        import grain

        workers.allow_without_absl_app()
        first = self.step * len(self._rows)
        to_sample = functools.partial(_to_sample, rows=self._rows, batch_size=self._batch_size)
        clips = grain.MapDataset.range(first, sys.maxsize).map(to_sample).map(self._clips)
        stack = functools.partial(stack_clips, num_source=self._shape['num_source'])
        in_order = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        if self._num_workers:
            # The first buffer. Workers hand over single clips, not batches: so all of them work on the next batch, and
            # together they hold one. The order is the same for any number of workers, because each element of the
            # stream gives exactly one clip, and Grain takes them from the workers in turn.
            self._slots.clear()
            options = grain.MultiprocessingOptions(self._num_workers, self._buffer)
            clips = clips.map(share_frames).to_iter_dataset(in_order)
            # Frames travel in our own slots, and what is left is small: Grain's queue takes it, without its segments.
            small = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
            clips = grain.experimental.WithOptionsIterDataset(clips, small)
            clips = clips.mp_prefetch(options, worker_init_fn=self._slots.worker_init())
            stack = functools.partial(self._slots.collect, stack=stack)
        else:
            clips = clips.to_iter_dataset(in_order)
        batches = clips.batch(len(self._rows), batch_fn=stack)
        # The second buffer: a thread stacks one batch while the device computes on the one before.
        return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1))

    def _recover(self, error):
        """Start again at the current step, without the files that held a worker, or once after another death."""
        if 'terminated unexpectedly' not in str(error):
            raise error
        notes = workers.notes_of_the_dead(self._clips.notes)
        reason = f'takes too long to decode (more than {self._clips.timeout_s:g} s, its worker was ended)'
        given_up = {note.record: reason for note in notes if note.is_timeout}
        if not given_up:
            self._lost_worker(workers.describe_death(str(error), notes), error)
        self._clips.given_up |= given_up
        self._end_workers()
        workers.clear_notes(self._clips.notes)
        self._iterator = self._start()

    def _lost_worker(self, what, error):
        if self._has_lost_worker:
            raise Stopped(f'{what}; the second time in this run') from error
        self._has_lost_worker = True
        self._notices.append(f'{what}; new workers start at step {self.step}')


def shared_bytes(data: 'ConfigDict', num_rows: int) -> int:
    """Shared memory that a Loader of `config.data` takes for this many clips of each batch."""
    num_slots = _num_slots(data.num_workers, num_rows)
    return slots_bytes(num_slots, data.num_source + data.num_target, data.image_size) if data.num_workers else 0


def _share(num_workers, num_rows):
    """A worker's clips of one batch."""
    return math.ceil(num_rows / max(num_workers, 1))


def _num_slots(num_workers, num_rows):
    """One share waits to be collected while the next is made.

    With fewer slots a worker could wait forever: Grain asks for a worker's clips in order, and the training process
    frees a slot only once the whole batch that it belongs to is there.
    """
    return num_workers * (2 * _share(num_workers, num_rows) + 1)


def _to_sample(number, *, rows, batch_size):
    """Number in the global stream of the n-th clip of a process that makes these rows of each batch."""
    step, place = divmod(number, len(rows))
    return step * batch_size + int(rows[place])

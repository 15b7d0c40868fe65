"""Saves the train state with the identity of its data, and restores only steps that pass their checksums.

Orbax writes the arrays; this module adds a manifest with checksums. The manifest is written into the step's temporary
folder just before Orbax renames that folder, so a step appears with its manifest or not at all, whenever the process is
killed. A step without a manifest was not written by this module and is not used. The first save of each start is also
read back there, see `read_back`. Which steps exist is read from the disk each time, because a list in memory would
still have a save that failed. What is different in a bucket is in `checkpoint_files`. Each process writes its part of
the arrays. The first one decides what is saved and what is restored, and a save that fails in one process has failed in
all.
"""

import concurrent.futures
import contextlib
import math
import os
from collections.abc import Callable
from typing import Any, Self

import jax

from rvm_jax.distributed.process_group import ALONE, ProcessGroup
from rvm_jax.distributed.save_barrier import OtherFailed, SaveBarrier
from rvm_jax.errors import Stopped, Unavailable, UserError
from rvm_jax.storage import checksums, files
from rvm_jax.storage.run_lock import confirm
from rvm_jax.terminal import say
from rvm_jax.training import checkpoint_files, read_back
from rvm_jax.training.checkpoint_files import step_path
from rvm_jax.training.read_back import describe
from rvm_jax.training.save_errors import SaveFailures, megabytes, quiet_orbax, reason
from rvm_jax.version import version

FOLDER = 'checkpoints'
# What Orbax raises for a step whose checksums are right, but which is not in its format.
ORBAX_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
SLICED = 2**20  # bytes; of a larger array, devices that hold copies of it write a part each


class Checkpoints:
    """The checkpoints of a workdir whose run lock is held; a context manager that waits for the last save at its end.

    A save that fails prints one line, and the next save tries again; several failures in a row raise UserError, see
    `SaveFailures`. The newest `keep` steps stay, and each multiple of keep_every (0: none).
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int = 3,
        keep_every: int = 0,
        config_hash: str = '',
        hosts: ProcessGroup = ALONE,
    ):
        self._workdir, self._folder = workdir, files.absolute(os.path.join(workdir, FOLDER))
        self._keep, self._keep_every, self._config_hash = keep, keep_every, config_hash
        self._hosts, self._barrier = hosts, SaveBarrier(hosts) if hosts.count > 1 else None
        self._failures = SaveFailures(self._folder, hosts.is_first)
        self._on_disk: int | None = None  # the step whose state was last saved or restored
        self._contents: dict[str, Any] = {}  # what the manifest of the latest save says
        self._outcome: concurrent.futures.Future[None] | None = None  # of the save in flight
        self._to_read: tuple[Any, dict[str, Any]] | None = None  # what a first save must give when it is read back
        self._is_readable = False  # whether a save of this start was read back
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        import orbax.checkpoint as ocp

        self._hosts.broadcast_from_first(self._tidy)
        self._stack.enter_context(quiet_orbax())
        self._seen_folder = self._stack.enter_context(checkpoint_files.without_wildcards(self._folder))
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(state=_array_handler(), data=ocp.JsonCheckpointHandler()),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                barrier_sync_fn=self._barrier and self._barrier.wait,
                # If a folder cannot be made in the background, Orbax's threads wait for it for five minutes, and the
                # process cannot end before. So one process makes folders first. Several processes would wait for each
                # other there, and when one of them fails they end without waiting for threads.
                create_directories_asynchronously=self._barrier is not None,
            ),
        )
        self._finisher = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(1, 'checkpoint'))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._settle()
            self._orbax.close()

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Start saving a pytree of jax.Arrays and a small JSON dict as the given step.

        Returns once the state was copied to the host, or is held there: JAX does not reuse a donated buffer that the
        save still reads. A step that was just saved or restored is not written again; an older attempt at it is
        replaced. Raises UserError as `wait` does.
        """
        self.wait()
        if step == self._on_disk and self._hosts.broadcast_from_first(lambda: step in self.steps()):
            return
        self._contents = {
            'step': step,
            'code': f'rvm_jax {version()}',
            'config_hash': self._config_hash,
            'tree': describe(state),
        }
        size = state_bytes(state)
        if self._barrier is not None:
            self._barrier.begin()
        problem = self._hosts.broadcast_from_first(lambda: self._prepare(step, size))
        if problem:
            return self._failures.add(step, size, OSError(0, problem))
        try:
            self._to_read = None if self._is_readable else (read_back.sample(state), data)
            self._start(step, state, data)
        except self._failures.errors as error:
            if self._barrier is not None:  # the others are writing already and cannot be stopped
                raise Stopped(f'checkpoint {step} not started: {reason(error)}') from error
            self._failures.add(step, size, error)
        else:
            self._outcome = self._finisher.submit(self._finish, step, size)

    def save_now(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Save and wait until the step is on the disk; tries twice, then raises UserError. For the end of a run."""
        for _ in range(2):
            self.save(step, state, data)
            self.wait()
            if self._on_disk == step:
                return
        self._failures.give_up(step)

    def wait(self) -> None:
        """Wait for the save in flight. Raises UserError if several in a row have failed by now."""
        self._settle()
        if self._contents:
            self._failures.check(self._contents['step'])

    def steps(self) -> list[int]:
        """The steps on the disk that have a manifest, oldest first."""
        return checkpoint_files.find_steps(self._folder)

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest undamaged step (or the given one) as (step, state, data); None if there is no checkpoint yet.

        abstract_state is a pytree of jax.ShapeDtypeStruct with shardings, for any number of devices. A damaged step is
        reported and the one before it is used. Raises UserError if none is left, if the given step is damaged or does
        not exist, and if keys, shapes or dtypes differ (Orbax would cast to another dtype without a message).
        """
        import orbax.checkpoint as ocp

        self.wait()
        found = self._hosts.broadcast_from_first(lambda: self._find(step))
        if found is None:
            return None
        step, tree = found
        path, seen = step_path(self._folder, step), step_path(self._seen_folder, step)
        _compare(path, tree, describe(abstract_state), self._workdir)
        layout = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        state_args = ocp.args.PyTreeRestore(item=abstract_state, restore_args=layout)
        restored = self._orbax.restore(seen, args=ocp.args.Composite(state=state_args, data=ocp.args.JsonRestore()))
        self._on_disk = step
        return step, restored.state, restored.data

    def _tidy(self):
        confirm(self._workdir)
        files.make_folder(self._folder)
        checkpoint_files.remove_unfinished(self._folder)
        checkpoint_files.report_strays(self._folder)

    def _find(self, step):
        found = checkpoint_files.find_good_step(self._folder, step)
        return found and (found[0], found[1]['tree'])

    def _prepare(self, step, size):
        """Why a save cannot work, found before any process starts it; '' if it can."""
        try:
            if not (files.is_remote(self._folder) or files.exists(self._folder)):  # better than losing the run
                files.make_folder(self._folder)
                say(f'{self._folder}: was deleted during this run; made again')
            confirm(self._workdir)
            checkpoint_files.keep_link(self._folder, self._seen_folder)
            free, safe = files.free_bytes(self._folder), 2 * size
            if free < safe:
                say(
                    f'checkpoint {step}: only {megabytes(free)} free in {self._folder}; make room for {megabytes(safe)}'
                )
            checkpoint_files.try_writing(self._folder, step)
        except self._failures.errors as error:
            return reason(error)
        return ''

    def _start(self, step, state, data):
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave(data))
        self._orbax.save(step_path(self._seen_folder, step), args=items, force=True)

    def _write_manifest(self):
        """Called by Orbax in its own thread, in the first process, between the last write and the rename."""
        [folder] = checkpoint_files.unfinished(self._folder, self._contents['step'])
        checksums.write_manifest(folder, self._contents)
        if self._to_read is not None:
            seen = os.path.join(self._seen_folder, os.path.basename(folder))
            read_back.check(seen, self._contents['tree'], *self._to_read)

    def _finish(self, step, size):
        """In the finishing thread: wait until the step is complete, then delete old ones."""
        try:
            self._orbax.wait_until_finished()
        except self._failures.errors as error:
            if self._barrier is not None:
                self._barrier.fail(error if isinstance(error, OtherFailed) else OSError(0, reason(error)))
            return self._failures.add(step, size, error)
        self._failures.clear()
        self._on_disk, self._is_readable = step, True
        if self._hosts.is_first:
            checkpoint_files.rotate(self._folder, step, self._keep, self._keep_every)

    def _settle(self):
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            outcome.result()


def _array_handler():
    """Orbax's handler for a pytree; for small copied arrays it would compile a program that slices each shape."""
    import orbax.checkpoint as ocp

    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def read_step(
    workdir: str | os.PathLike, step: int | None = None, check: Callable[[dict[str, Any]], None] | None = None
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Read the parameters of a workdir's newest undamaged step (or the given one); the optimizer need not be known.

    With config.ema they are the moving average of the weights.

    Returns (step, nested dicts of numpy arrays, the data identity saved with them). check, if given, is called before
    any array is read, with the same dicts of shapes. Raises UserError if there is nothing good to read.
    """
    folder = files.absolute(os.path.join(workdir, FOLDER))
    found = checkpoint_files.find_good_step(folder, step)
    if found is None:
        raise UserError(workdir, 'does not have a checkpoint', 'train there first, or give another model path')
    step = found[0]
    path = step_path(folder, step)
    try:
        with checkpoint_files.without_wildcards(folder) as seen:
            return step, *_read_items(step_path(seen, step), check)
    except ORBAX_ERRORS as error:
        if isinstance(error, OSError) and files.may_pass(error):
            raise Unavailable(path, error.strerror) from error
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise UserError(path, f'cannot be read ({reason})', 'restore it from a copy, or choose another step') from error


def _read_items(path, check):
    """(arrays of the model, data identity) of a step."""
    import numpy as np
    import orbax.checkpoint as ocp

    from rvm_jax.models.trainable import joined

    with quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        state = os.path.join(path, 'state')
        saved = reader.metadata(state).item_metadata.tree
        names = 'ema' if 'ema' in saved else 'params', 'statistics'
        wanted = {name: saved[name] for name in names if name in saved}
        if check is not None:
            check(joined(*wanted.values()))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        arrays = joined(*reader.restore(state, args=args).values())
    with quiet_orbax(), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        identity = reader.restore(os.path.join(path, 'data'))
    if not isinstance(identity, dict):
        raise ValueError('data is not a JSON object')
    return arrays, identity


def state_bytes(tree: Any) -> int:
    """Bytes of all leaves; copies on several devices count once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _compare(path, saved, wanted, workdir):
    """Raise UserError if the saved tree is not the wanted one, with every kind of difference."""
    differences = {
        'missing': sorted(wanted.keys() - saved.keys()),
        'unexpected': sorted(saved.keys() - wanted.keys()),
        'shape': _unequal(saved, wanted, 'shape'),
        'dtype': _unequal(saved, wanted, 'dtype'),
    }
    lists = [f'{kind}: {checkpoint_files.some_of(names)}' for kind, names in differences.items() if names]
    if lists:
        if any(facts['dtype'] in ('float64', 'int64') for facts in saved.values()):
            lists.append('it was saved with JAX_ENABLE_X64=1, which is not used any more')
        fix = f'set the config back, or start a new run elsewhere with --config.init_from={workdir}'
        raise UserError(path, f'does not fit this config ({"; ".join(lists)})', fix)


def _unequal(saved, wanted, kind):
    return [
        f'{name} {saved[name][kind]}, now {wanted[name][kind]}'
        for name in sorted(saved.keys() & wanted.keys())
        if saved[name][kind] != wanted[name][kind]
    ]

"""Saves state and data position together, and restores only what is proved undamaged.

Orbax writes; this module adds what it lacks: a manifest with checksums, which is written into the step's temporary
folder just before Orbax renames it, so that a step appears with its manifest or not at all, whenever the process is
killed. A step without a manifest was therefore not written here and is not used. The first save of each start is also
read back there: see `read_back`. Which steps exist is read from the disk each time: a list kept in memory would still
name a save that failed. What a bucket does differently is in `checkpoint_files`. Of several processes each writes its
part; the first decides what is saved and what is restored, and a save that fails in one has failed in all.
"""

import concurrent.futures
import contextlib
import math
import os

import jax

from rvm_jax.distributed.process_group import ALONE
from rvm_jax.distributed.save_barrier import OtherFailed, SaveBarrier
from rvm_jax.errors import Stopped, Unavailable, UserError
from rvm_jax.storage import files
from rvm_jax.storage.run_lock import confirm
from rvm_jax.terminal import say
from rvm_jax.training import checkpoint_files, checksums, read_back
from rvm_jax.training.checkpoint_files import step_path
from rvm_jax.training.read_back import describe
from rvm_jax.training.save_errors import SaveFailures, megabytes, quiet_orbax, reason
from rvm_jax.version import version

FOLDER = 'checkpoints'
# What Orbax makes of a step that has the right checksums, and is not as it writes them.
ORBAX_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
SLICED = 2**20  # bytes from which the devices that hold copies of an array each write a part of it


class Checkpoints:
    """The checkpoints of a workdir whose run lock is held; a context manager that waits for the last save at its end.

    A save that fails costs one line; the next one tries again, and several in a row raise UserError: `SaveFailures`.
    keep is the number of newest steps that stay, keep_every (0: none) keeps each multiple of it as well.
    """

    def __init__(self, workdir, keep=3, keep_every=0, config_hash='', hosts=ALONE):
        self._workdir, self._folder = workdir, files.absolute(os.path.join(workdir, FOLDER))
        self._keep, self._keep_every, self._config_hash = keep, keep_every, config_hash
        self._hosts, self._meeting = hosts, SaveBarrier(hosts) if hosts.count > 1 else None
        self._failures = SaveFailures(self._folder, hosts.is_first)
        self._on_disk = None  # the step whose state was last saved or restored
        self._contents = self._outcome = None  # of the save in flight: what its manifest says, and its future
        self._to_read = None  # of the first save: what must be found when it is read back; then None
        self._is_readable = False  # whether a save of this start was read back
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        import orbax.checkpoint as ocp

        self._hosts.broadcast_from_first(self._tidy)
        self._stack.enter_context(quiet_orbax())
        self._seen_folder = self._stack.enter_context(checkpoint_files.without_wildcards(self._folder))
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(state=_array_handler(), data=ocp.JsonCheckpointHandler()),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                barrier_sync_fn=self._meeting and self._meeting.wait,
                # When making a folder in the background fails, threads wait for it for five minutes, and so does the
                # end of the process. Several processes must not wait for each other here; they end without threads.
                create_directories_asynchronously=self._meeting is not None,
            ),
        )
        self._finisher = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(1, 'checkpoint'))
        return self

    def __exit__(self, *_):
        with self._stack:
            self._settle()
            self._orbax.close()

    def save(self, step, state, data):
        """Start saving a pytree of jax.Arrays and a small JSON dict as the given step.

        Returns once the state is on the host or held there: JAX reuses no donated buffer that the save still reads.
        A step that was just saved or restored is not written again; an older attempt at it is replaced.
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
        if self._meeting is not None:
            self._meeting.begin()
        problem = self._hosts.broadcast_from_first(lambda: self._prepare(step, size))
        if problem:
            return self._failures.add(step, size, OSError(0, problem))
        try:
            self._to_read = None if self._is_readable else (read_back.sample(state), data)
            self._start(step, state, data)
        except self._failures.errors as error:
            if self._meeting is not None:  # the others have begun to write: a save that cannot be called off
                raise Stopped(f'checkpoint {step} not begun: {reason(error)}') from error
            self._failures.add(step, size, error)
        else:
            self._outcome = self._finisher.submit(self._finish, step, size)

    def save_now(self, step, state, data):
        """Save and wait until it is on the disk; tries twice, then raises UserError. For the end of a run."""
        for _ in range(2):
            self.save(step, state, data)
            self.wait()
            if self._on_disk == step:
                return
        self._failures.give_up(step)

    def wait(self):
        """Wait for the save in flight. Raises UserError if several in a row have failed by now."""
        self._settle()
        if self._contents is not None:
            self._failures.check(self._contents['step'])

    def steps(self):
        """The steps on the disk that have a manifest, oldest first."""
        return checkpoint_files.find_steps(self._folder)

    def restore(self, abstract_state, step=None):
        """The newest undamaged step (or the given one) as (step, state, data); None if there is no checkpoint yet.

        abstract_state is a pytree of jax.ShapeDtypeStruct with shardings, for any number of devices.
        A damaged step is named and the one before it is used. Raises UserError when none is left, when the given step
        is damaged or absent, and when keys, shapes or dtypes differ (Orbax would cast a dtype without a word).
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
        """What speaks against a save, before any process begins it; '' if nothing does."""
        try:
            if not (files.is_remote(self._folder) or files.exists(self._folder)):  # better than to lose the run
                files.make_folder(self._folder)
                say(f'{self._folder}: was deleted during this run; made again')
            confirm(self._workdir)
            free, safe = files.free_bytes(self._folder), 2 * size
            if free < safe:
                say(f'checkpoint {step}: {self._folder} has {megabytes(free)} free, {megabytes(safe)} would be safe')
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
        """In the finishing thread: wait for the commit, then make room."""
        try:
            self._orbax.wait_until_finished()
        except self._failures.errors as error:
            if self._meeting is not None:
                self._meeting.fail(error if isinstance(error, OtherFailed) else OSError(0, reason(error)))
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
    """Orbax's handler for a pytree, without its habit of compiling a slice for each shape of a small copied array."""
    import orbax.checkpoint as ocp

    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def read_step(workdir, step=None, check=None):
    """Read the model's part of a workdir's newest undamaged step (or the given one), without knowing its optimizer.

    Returns (step, nested dicts of numpy arrays, the data position saved with it). check, if given, is called with the
    same dicts of what has only a shape, before any array is read. Raises UserError when there is nothing good to read.
    """
    folder = files.absolute(os.path.join(workdir, FOLDER))
    found = checkpoint_files.find_good_step(folder, step)
    if found is None:
        raise UserError(workdir, 'has no checkpoint', 'train there first, or name another model path')
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
    """(model's arrays, data position) of a step."""
    import numpy as np
    import orbax.checkpoint as ocp

    from rvm_jax.models.trainable import joined

    with quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        state = os.path.join(path, 'state')
        saved = reader.metadata(state).item_metadata.tree
        wanted = {name: saved[name] for name in ('params', 'statistics') if name in saved}
        if check is not None:
            check(joined(*wanted.values()))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        arrays = joined(*reader.restore(state, args=args).values())
    with quiet_orbax(), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        position = reader.restore(os.path.join(path, 'data'))
    if not isinstance(position, dict):
        raise ValueError('data is not JSON object')
    return arrays, position


def state_bytes(tree):
    """Bytes of all leaves, over all devices."""
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

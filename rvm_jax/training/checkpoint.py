"""Saves state and data position together, and restores only what is proved undamaged.

Orbax writes; this module adds what it lacks: a manifest with checksums, which is written into the step's temporary
folder just before Orbax renames it, so that a step appears with its manifest or not at all, whenever the process is
killed. A step without a manifest was therefore not written here and is not used. Which steps exist is read from the
disk each time: a list kept in memory would still name a save that failed. What a bucket does differently is in
`checkpoint_folder`. Of several processes each writes its part; the first decides what is saved and what is restored,
and a save that fails in one has failed in all.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import math
import os
import re
import time

import jax

from rvm_jax import bucket, storage
from rvm_jax.errors import Stopped, Unavailable, UserError
from rvm_jax.training import checkpoint_folder, checksums
from rvm_jax.training.checkpoint_folder import step_path
from rvm_jax.training.hosts import ALONE
from rvm_jax.training.orbax_noise import quiet_orbax
from rvm_jax.training.progress import say
from rvm_jax.training.run_lock import confirm
from rvm_jax.training.save_meeting import OtherFailed, SaveMeeting

FOLDER = 'checkpoints'
MAX_FAILURES = 3  # saves in a row that may fail before the run stops
SLICED = 2**20  # bytes from which the devices that hold copies of an array each write a part of it
GRACE = 0.5  # seconds in which the other writers of a failed save come to their end, before its folder is removed
# What is raised when a write fails; Orbax makes full disks a ValueError.
SAVE_ERRORS = (OSError, RuntimeError, ValueError, Unavailable)


class Checkpoints:
    """The checkpoints of a workdir whose run lock is held; a context manager that waits for the last save at its end.

    A save that fails costs one line; the next one tries again, and MAX_FAILURES in a row raise UserError.
    keep is the number of newest steps that stay, keep_every (0: none) keeps each multiple of it as well.
    """

    def __init__(self, workdir, keep=3, keep_every=0, config_hash='', hosts=ALONE):
        self._workdir, self._folder = workdir, storage.absolute(os.path.join(workdir, FOLDER))
        self._keep, self._keep_every, self._config_hash = keep, keep_every, config_hash
        self._hosts, self._meeting = hosts, SaveMeeting(hosts) if hosts.count > 1 else None
        self._failures, self._error = 0, None  # in a row
        self._on_disk = None  # the step whose state was last saved or restored
        self._contents = self._outcome = None  # of the save in flight: what its manifest says, and its future
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        import orbax.checkpoint as ocp

        self._hosts.decide(self._tidy)
        self._stack.enter_context(quiet_orbax())
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(state=_array_handler(), data=ocp.JsonCheckpointHandler()),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                barrier_sync_fn=self._meeting and self._meeting.wait,
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
        if step == self._on_disk and self._hosts.decide(lambda: step in self.steps()):
            return
        self._contents = {
            'step': step,
            'code': f'rvm_jax {_version()}',
            'config_hash': self._config_hash,
            'tree': describe(state),
        }
        size = state_bytes(state)
        if self._meeting is not None:
            self._meeting.begin()
        problem = self._hosts.decide(lambda: self._prepare(step, size))
        if problem:
            return self._count_failure(step, size, OSError(0, problem))
        try:
            self._start(step, state, data)
        except _save_errors(self._folder) as error:
            if self._meeting is not None:  # the others have begun to write: a save that cannot be called off
                raise Stopped(f'checkpoint {step} not begun: {_reason(error)}') from error
            self._count_failure(step, size, error)
        else:
            self._outcome = self._finisher.submit(self._finish, step, size)

    def save_now(self, step, state, data):
        """Save and wait until it is on the disk; tries twice, then raises UserError. For the end of a run."""
        for _ in range(2):
            self.save(step, state, data)
            self.wait()
            if self._on_disk == step:
                return
        self._give_up(step)

    def wait(self):
        """Wait for the save in flight. Raises UserError after MAX_FAILURES failed saves in a row."""
        self._settle()
        if self._failures >= MAX_FAILURES:
            self._give_up(self._contents['step'])

    def steps(self):
        """The steps on the disk that have a manifest, oldest first."""
        return checkpoint_folder.find_steps(self._folder)

    def restore(self, abstract_state, step=None):
        """The newest undamaged step (or the given one) as (step, state, data); None if there is no checkpoint yet.

        abstract_state is a pytree of jax.ShapeDtypeStruct with shardings, for any number of devices.
        A damaged step is named and the one before it is used. Raises UserError when none is left, when the given step
        is damaged or absent, and when keys, shapes or dtypes differ (Orbax would cast a dtype without a word).
        """
        import orbax.checkpoint as ocp

        self.wait()
        found = self._hosts.decide(lambda: self._find(step))
        if found is None:
            return None
        step, tree = found
        path = step_path(self._folder, step)
        _compare(path, tree, describe(abstract_state), self._workdir)
        layout = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        state_args = ocp.args.PyTreeRestore(item=abstract_state, restore_args=layout)
        restored = self._orbax.restore(path, args=ocp.args.Composite(state=state_args, data=ocp.args.JsonRestore()))
        self._on_disk = step
        return step, restored.state, restored.data

    def _tidy(self):
        confirm(self._workdir)
        storage.make_folder(self._folder)
        checkpoint_folder.remove_unfinished(self._folder)
        checkpoint_folder.name_strays(self._folder)

    def _find(self, step):
        found = checkpoint_folder.find_good_step(self._folder, step)
        return found and (found[0], found[1]['tree'])

    def _prepare(self, step, size):
        """What speaks against a save, before any process begins it; '' if nothing does."""
        try:
            confirm(self._workdir)
            free = storage.free_bytes(self._folder)
            if free < 2 * size:
                say(f'checkpoint {step}: {self._folder} has {_mb(free)} free, {_mb(2 * size)} would be safe')
            checkpoint_folder.try_writing(self._folder, step)
        except _save_errors(self._folder) as error:
            return _reason(error)
        return ''

    def _start(self, step, state, data):
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave(data))
        self._orbax.save(step_path(self._folder, step), args=items, force=True)

    def _write_manifest(self):
        """Called by Orbax in its own thread, in the first process, between the last write and the rename."""
        [folder] = checkpoint_folder.unfinished(self._folder, self._contents['step'])
        checksums.write_manifest(folder, self._contents)

    def _finish(self, step, size):
        """In the finishing thread: wait for the commit, then make room."""
        try:
            self._orbax.wait_until_finished()
        except _save_errors(self._folder) as error:
            if self._meeting is not None:
                self._meeting.fail(error if isinstance(error, OtherFailed) else OSError(0, _reason(error)))
            return self._count_failure(step, size, error)
        self._failures, self._error, self._on_disk = 0, None, step
        if self._hosts.is_first:
            checkpoint_folder.rotate(self._folder, step, self._keep, self._keep_every)

    def _settle(self):
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            outcome.result()

    def _count_failure(self, step, size, error):
        self._failures, self._error = self._failures + 1, error
        time.sleep(GRACE)
        if self._hosts.is_first:
            with contextlib.suppress(OSError, Unavailable):  # a store that is away; the next start cleans up
                checkpoint_folder.remove_unfinished(self._folder)
            free = storage.free_bytes(self._folder)
            room = f'needs about {_mb(size)}' + (f', {_mb(free)} free' if free < math.inf else '')
            count = f'failure {self._failures} of {MAX_FAILURES} in a row'
            say(f'checkpoint {step} not written: {_reason(error)} ({room}); the next save tries again, {count}')

    def _give_up(self, step):
        if storage.is_remote(self._folder):
            raise Unavailable(step_path(self._folder, step), _reason(self._error)) from self._error
        raise UserError(
            step_path(self._folder, step),
            f'could not be saved ({_reason(self._error)})',
            f'make room or check the disk, then start again; newest good step: {max(self.steps(), default="none")}',
        ) from self._error


def _array_handler():
    """Orbax's handler for a pytree, without its habit of compiling a slice for each shape of a small copied array."""
    import orbax.checkpoint as ocp

    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def read_step(workdir, step=None):
    """Read the parameters of a workdir's newest undamaged step (or the given one), without knowing its optimizer.

    Returns (step, params): nested dicts of numpy arrays. Raises UserError when there is nothing good to read.
    """
    import numpy as np
    import orbax.checkpoint as ocp

    folder = storage.absolute(os.path.join(workdir, FOLDER))
    found = checkpoint_folder.find_good_step(folder, step)
    if found is None:
        raise UserError(workdir, 'has no checkpoint', 'train there first, or name another model path')
    step = found[0]
    with quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = os.path.join(step_path(folder, step), 'state')
        wanted = {'params': reader.metadata(path).item_metadata.tree['params']}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        return step, reader.restore(path, args=args)['params']


def describe(tree):
    """Each leaf's path, with its shape and dtype."""
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): {'shape': list(leaf.shape), 'dtype': str(leaf.dtype)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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
    lists = [f'{kind}: {checkpoint_folder.some_of(names)}' for kind, names in differences.items() if names]
    if lists:
        fix = f'set the config back, or start a new run elsewhere with --config.init_from={workdir}'
        raise UserError(path, f'does not fit this config ({"; ".join(lists)})', fix)


def _unequal(saved, wanted, kind):
    return [
        f'{name} {saved[name][kind]}, now {wanted[name][kind]}'
        for name in sorted(saved.keys() & wanted.keys())
        if saved[name][kind] != wanted[name][kind]
    ]


def _save_errors(folder):
    return (*SAVE_ERRORS, *bucket.orbax_errors()) if storage.is_remote(folder) else SAVE_ERRORS


def _reason(error):
    """A write error in a few words; tensorstore hides the system's own in a long message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else (str(error).splitlines() or [type(error).__name__])[0][:200]


def _mb(size):
    return f'{size / 1e6:,.1f} MB'


def _version():
    try:
        return importlib.metadata.version('rvm_jax')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'

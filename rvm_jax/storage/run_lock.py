"""Keeps two runs out of one folder: `run.lock` says who works there.

A run that died leaves its lock behind. On the same machine the process table tells whether it is dead. A lock from
another machine is valid as long as it shows signs of life: a new modification time every HEARTBEAT seconds. `gcs_lock`
is the same for a bucket.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

from rvm_jax.errors import UserError
from rvm_jax.storage import files, gcs_lock, lock_owner
from rvm_jax.storage.lock_owner import is_mine, who
from rvm_jax.terminal import say

NAME = 'run.lock'
HEARTBEAT = 30.0  # seconds between signs of life
SILENCE = 600.0  # seconds without one, after which another machine's run counts as dead
SETTLE = 1.0  # seconds that a lock file may stay half written


@contextlib.contextmanager
def run_lock(workdir: str | os.PathLike, flag: str = '--workdir') -> Iterator[None]:
    """Hold the folder's lock for as long as the block lasts; a dead run's lock is taken over with a notice.

    flag is what the user names the folder with. Raises UserError when another run holds the lock, or when the folder
    cannot be written.
    """
    path = os.path.join(workdir, NAME)
    acquire, heartbeat, release = (
        (gcs_lock.acquire, gcs_lock.heartbeat, gcs_lock.release)
        if files.is_remote(workdir)
        else (_acquire, _heartbeat, _release)
    )
    try:
        acquire(path, flag)
    except OSError as error:
        raise UserError(workdir, f'cannot be written ({error.strerror})', f'choose another {flag}') from error
    # Signs of life come from a thread of their own: a step, or a save, may take longer than they may be late.
    ended = threading.Event()
    beating = threading.Thread(target=heartbeat, args=(path, ended), name='run_lock', daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()  # else a late sign of life could follow the lock's end
        release(path)


def release(workdir: str | os.PathLike) -> None:
    """Delete the lock of workdir if this process holds it; for an exit that runs no `finally` block."""
    path = os.path.join(workdir, NAME)
    (gcs_lock.release if files.is_remote(workdir) else _release)(path)


def is_stale(workdir: str, owner: dict) -> bool:
    """Whether the run that a lock names is gone; False if that cannot be told, as in a bucket."""
    if files.is_remote(workdir) or not lock_owner.parse(json.dumps(owner)):
        return False
    try:
        return not _lives(os.path.join(workdir, NAME), owner)
    except OSError:  # a folder that cannot be written has no clock to compare with
        return False


def confirm(workdir: str | os.PathLike) -> None:
    """Raise UserError unless this process holds the lock of workdir.

    A process that was suspended for long may find that another machine took over; it must not write any more.
    A lock that someone deleted is put back.
    """
    path = os.path.join(workdir, NAME)
    other = (gcs_lock.confirm if files.is_remote(workdir) else _confirm)(path)
    if other is not None:
        fix = 'start again once no other run writes here'
        raise UserError(path, f'is no longer held by this run, but by {who(other)}', fix)


def _acquire(path, flag):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    while not _create(path):
        _judge(path, flag)


def _release(path):
    if is_mine(_read(path)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _confirm(path):
    """The owner if it is not this process, else None; a lock that someone deleted is put back."""
    owner = _read(path)
    if owner is None and _create(path):
        say(f'{path}: was deleted during this run; put back')
        return None
    return None if is_mine(owner) else owner


def _create(path):
    """Write the lock unless there is one; True if it is ours now.

    O_EXCL makes the file system itself decide which of several runs comes first.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, 'w') as file:
        json.dump(lock_owner.describe(), file)
    return True


def _judge(path, flag):
    """Clear a dead run's lock away, or raise UserError when its owner lives."""
    owner, deadline = _read(path), time.monotonic() + SETTLE
    while owner == {} and time.monotonic() < deadline:  # its owner may be writing it just now
        time.sleep(0.05)
        owner = _read(path)
    if owner is None:
        return
    if owner and _lives(path, owner):
        if lock_owner.is_here(owner):
            fix = f'wait until it ends, stop it (kill {owner["pid"]}), or choose another {flag}'
        else:
            fix = f'wait (it counts as dead after {SILENCE / 60:.0f} silent minutes), or choose another {flag}'
        raise UserError(path, f'in use by {who(owner)}', fix)
    if _clear(path, owner):
        say(f'{path}: taken over from {who(owner)}, which is gone')


def _clear(path, owner):
    """Take the dead lock away; False if someone else was quicker.

    Renaming before looking again keeps two successors from each removing the other's new lock.
    """
    aside = f'{path}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}'
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if _read(aside) == owner:
        os.unlink(aside)
        return True
    os.rename(aside, path)
    return False


def _lives(path, owner):
    if lock_owner.is_here(owner):
        return lock_owner.runs(owner)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or '.') as now, contextlib.suppress(FileNotFoundError):
        # Both times come from the file system's clock, so a clock that is off on either machine does not matter.
        return os.stat(now.name).st_mtime - os.stat(path).st_mtime < SILENCE
    return False


def _heartbeat(path, ended):
    while not ended.wait(HEARTBEAT):
        if is_mine(_read(path)):
            with contextlib.suppress(OSError):  # a file system that fails for a moment; the next heartbeat tries again
                os.utime(path)


def _read(path):
    """The owner that a lock names: {} if it is unreadable, None if there is no lock."""
    try:
        files.check_regular(path)
        with open(path, 'rb') as file:
            return lock_owner.parse(file.read())
    except FileNotFoundError:
        return None
    except OSError:
        return {}

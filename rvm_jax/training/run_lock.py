"""Keeps two runs out of one workdir: `run.lock` says who trains there.

A run that died leaves its lock behind. On the same machine the process table tells; a lock from another machine is
believed as long as it shows signs of life, a fresh modification time every HEARTBEAT seconds.
"""

import contextlib
import datetime
import json
import os
import socket
import tempfile
import threading
import time

from rvm_jax.errors import UserError
from rvm_jax.training.progress import say

NAME = 'run.lock'
HEARTBEAT = 30.0  # seconds between signs of life
SILENCE = 600.0  # seconds without one, after which another machine's run counts as dead
SETTLE = 1.0  # seconds that a lock file may stay half written


@contextlib.contextmanager
def run_lock(workdir):
    """Hold the workdir's lock; the dead run's lock is taken over with a notice.

    Raises UserError when another run holds it, or when the workdir cannot be written.
    """
    path = os.path.join(workdir, NAME)
    try:
        os.makedirs(workdir, exist_ok=True)
        while not _create(path):
            _judge(path)
    except OSError as error:
        raise UserError(workdir, f'cannot be written ({error.strerror})', 'choose another --workdir') from error
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), name='run_lock', daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _is_mine(_read(path)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def confirm(workdir):
    """Raise UserError unless this process holds the lock of workdir.

    A process that was suspended for long may find that another machine took over; it must not write any more.
    A lock that someone deleted is put back.
    """
    path = os.path.join(workdir, NAME)
    owner = _read(path)
    if owner is None and _create(path):
        say(f'{path}: was deleted while this run goes on; put back')
    elif not _is_mine(owner):
        fix = 'start again once no other run writes here'
        raise UserError(path, f'this run does not hold it any more, but {_who(owner)}', fix)


def _create(path):
    """Write the lock unless there is one; True if it is ours now."""
    mine = {**_identity(), 'since': datetime.datetime.now().astimezone().isoformat(timespec='seconds')}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, 'w') as file:
        json.dump(mine, file)
    return True


def _judge(path):
    """Clear a dead run's lock away, or raise UserError when its owner lives."""
    owner, deadline = _read(path), time.monotonic() + SETTLE
    while owner == {} and time.monotonic() < deadline:  # its owner may be writing it just now
        time.sleep(0.05)
        owner = _read(path)
    if owner is None:
        return
    if owner and _lives(path, owner):
        if owner['host'] == socket.gethostname():
            fix = f'wait until it ends, stop it (kill {owner["pid"]}), or choose another --workdir'
        else:
            fix = f'wait (it counts as dead after {SILENCE / 60:.0f} silent minutes), or choose another --workdir'
        raise UserError(path, f'in use by {_who(owner)}', fix)
    if _clear(path, owner):
        say(f'{path}: taken over from {_who(owner)}, which is gone')


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
    if owner['host'] == socket.gethostname():
        started = _started(owner['pid'])
        return started is not None and started == owner['start']
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or '.') as now, contextlib.suppress(FileNotFoundError):
        # Both times come from the file system's clock, so a clock that is off on either machine does not matter.
        return os.stat(now.name).st_mtime - os.stat(path).st_mtime < SILENCE
    return False


def _beat(path, ended):
    while not ended.wait(HEARTBEAT):
        if _is_mine(_read(path)):
            with contextlib.suppress(OSError):  # a file system that hiccups; the next beat tries again
                os.utime(path)


def _read(path):
    """The owner that a lock names: {} if it is unreadable, None if there is no lock."""
    try:
        with open(path, 'rb') as file:
            owner = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) and {'host', 'pid', 'start', 'since'} <= owner.keys() else {}


def _identity():
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'start': _started(os.getpid())}


def _is_mine(owner):
    return bool(owner) and _identity().items() <= owner.items()


def _started(pid):
    """When a process began, as machine boot and clock ticks since; None if it does not run (a zombie does not)."""
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            fields = file.read().rpartition(b')')[2].split()  # the name before it may hold spaces
        with open('/proc/sys/kernel/random/boot_id') as file:
            boot = file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b'Z', b'X') else f'{boot} {fields[19].decode()}'


def _who(owner):
    return f'process {owner["pid"]} on {owner["host"]} since {owner["since"]}' if owner else 'an unknown run'

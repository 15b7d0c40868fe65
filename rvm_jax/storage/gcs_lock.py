"""The run lock of a workdir in a bucket: an object that is only ever written in place of the version that was seen.

The store itself decides who was first, so of several runs that start at once, or find the same dead run's lock, one
continues. Its owner rewrites it every HEARTBEAT seconds, which changes its version. A lock from another machine is
watched before it is taken over, so that no clock matters; an owner that was only stuck learns of it before its next
save.
"""

import json
import threading
import time

from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import files, gcs, lock_owner
from rvm_jax.terminal import say

HEARTBEAT = 30.0  # seconds between signs of life
SILENCE = 150.0  # seconds without one, after which another machine's run counts as dead
LOOK = 3.0  # seconds between looks at a lock that is watched


def acquire(path: str, flag: str = '--workdir') -> None:
    """Take the lock, from a dead run too, with a notice. Raises UserError when another run holds it.

    flag is what the user names the folder with.
    """
    while True:
        owner, version = _read(path)
        if owner:
            _check_dead(path, owner, version, flag)
        if _put(path, version):
            if version != gcs.ABSENT:
                say(f'{path}: taken over from {lock_owner.who(owner)}, which is gone')
            return


def heartbeat(path: str, ended: threading.Event) -> None:
    """Show signs of life until the event is set; one that fails is followed by the next one."""
    while not ended.wait(HEARTBEAT):
        try:
            owner, version = _read(path)
            if lock_owner.is_mine(owner):
                _put(path, version, owner)
        except (OSError, Unavailable):
            continue


def confirm(path: str) -> dict | None:
    """The owner if it is not this process, else None; a lock that someone deleted is put back."""
    owner, version = _read(path)
    if version == gcs.ABSENT and _put(path, version):
        say(f'{path}: was deleted during this run; put back')
        return None
    return None if lock_owner.is_mine(owner) else owner


def release(path: str) -> None:
    """Delete the lock, if it is still this process's."""
    try:
        while not _is_released(path):
            continue
    except (OSError, Unavailable) as error:
        say(f'{path}: not removed ({error}); the next run on another machine waits {SILENCE:.0f} s for it')


def _is_released(path):
    """Delete the version of the lock that is there now, if it is this process's; False if it was quickly replaced."""
    owner, version = _read(path)
    if not lock_owner.is_mine(owner):
        return True
    try:
        files.retried(path, lambda: gcs.remove(path, version))
    except FileNotFoundError:  # or the first try arrived, and only its answer was lost
        return True
    except FileExistsError:  # a sign of life of this run, or another run that took over
        return False
    return True


def _check_dead(path, owner, version, flag):
    """Return once the owner is known to be dead, or the lock has changed hands. Raises UserError if it lives."""
    if lock_owner.is_here(owner):
        if lock_owner.runs(owner):
            fix = f'wait until it ends, stop it (kill {owner["pid"]}), or choose another {flag}'
            raise UserError(path, f'in use by {lock_owner.who(owner)}', fix)
        return
    say(f'{path}: held by {lock_owner.who(owner)}; watching up to {SILENCE:.0f} s for a sign of life')
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(LOOK)
        seen, now = _read(path)
        if seen != owner:
            return
        if now != version:
            raise UserError(path, f'in use by {lock_owner.who(owner)}', f'wait until it ends, or choose another {flag}')


def _read(path):
    """(owner, version) of a lock: {} if it is unreadable, None if there is none."""
    try:
        text, version = files.retried(path, lambda: gcs.read(path))
    except FileNotFoundError:
        return None, gcs.ABSENT
    return lock_owner.parse(text), version


def _put(path, version, mine=None):
    """Write this process's lock in place of the given version; True if it is ours now."""
    text = json.dumps(mine or lock_owner.describe()).encode()
    try:
        files.retried(path, lambda: gcs.write(path, text, version))
    except FileExistsError:  # or the first try arrived, and only its answer was lost
        return lock_owner.is_mine(_read(path)[0])
    return True

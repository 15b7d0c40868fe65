"""Files of a run, on a disk or in a bucket (gs://bucket/path): one set of functions for both.

A fault that may pass (a network file system that does not answer for a moment, a store that is overloaded) is tried
again, TRIES times in all, with growing waits. Retries are counted; after the last one errors.Unavailable is raised. Any
other OSError is raised as it is. A file that is written appears whole or not at all.
"""

import collections
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rvm_jax.errors import Unavailable
from rvm_jax.storage import gcs
from rvm_jax.storage.atomic import atomic_write

TRIES = 6
FIRST_WAIT = 0.25  # seconds, doubled after each try: 8 in all
PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
Result = TypeVar('Result')
# {reason: times that something was tried again}, of this process
retries: collections.Counter[str] = collections.Counter()


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path lies in a bucket."""
    return os.fspath(path).startswith(gcs.SCHEME)


def expanded(path: str | os.PathLike) -> str:
    """A path with its ~ or ~user as the folder it stands for. A shell does that too, but not behind a =."""
    return os.path.expanduser(os.fspath(path))


def absolute(path: str | os.PathLike) -> str:
    """The path from the root."""
    return os.fspath(path) if is_remote(path) else os.path.abspath(path)


def read(path: str | os.PathLike) -> bytes:
    """The bytes of a regular file. Raises FileNotFoundError."""
    return retried(path, lambda: gcs.read(path)[0] if is_remote(path) else _read(path))


def read_json(path: str | os.PathLike, most: float = math.inf) -> Any:
    """The values in a JSON file. Raises FileNotFoundError, or ValueError where it is not JSON or longer than `most`."""
    size = 0 if is_remote(path) else retried(path, lambda: os.path.getsize(path))
    if size > most:
        raise ValueError(f'it has {size:,} bytes')
    try:
        return json.loads(read(path))
    except RecursionError:
        raise ValueError('it is nested too deeply') from None


def write(path: str | os.PathLike, data: bytes, durable: bool = False) -> None:
    """Write bytes; durable waits until they are on the disk itself, as they always are in a bucket."""
    retried(path, lambda: gcs.write(path, data) if is_remote(path) else _replace(path, data, durable))


def write_json(path: str | os.PathLike, values: Any, indent: int | None = None, durable: bool = False) -> None:
    """Write values as JSON."""
    write(path, json.dumps(values, indent=indent).encode(), durable)


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or folder."""
    return retried(path, lambda: (gcs if is_remote(path) else os.path).exists(path))


def names(folder: str | os.PathLike) -> list[str]:
    """Names of the files and folders in a folder, sorted; [] where there is none."""
    try:
        return sorted(retried(folder, lambda: (gcs.names if is_remote(folder) else os.listdir)(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files(folder: str | os.PathLike) -> dict[str, int]:
    """{name: bytes} of every file below a folder, sorted; names are relative to it."""
    return dict(sorted(retried(folder, lambda: gcs.files(folder) if is_remote(folder) else _files(folder)).items()))


def digest(path: str | os.PathLike, kind: str) -> str:
    """A file's checksum in hex, 'md5' or 'sha256'."""
    return retried(path, lambda: gcs.digest(path, kind) if is_remote(path) else _digest(path, kind))


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and those above it; a bucket needs none."""
    if not is_remote(path):
        retried(path, lambda: os.makedirs(path, exist_ok=True))


def remove(path: str | os.PathLike) -> None:
    """Delete a file, if it is there."""
    try:
        retried(path, lambda: (gcs.remove if is_remote(path) else os.unlink)(path))
    except FileNotFoundError:
        return


def remove_folder(folder: str | os.PathLike) -> None:
    """Delete a folder with all that is in it."""
    if not is_remote(folder):
        return retried(folder, lambda: shutil.rmtree(folder))
    for name in files(folder):
        remove(os.path.join(folder, name))


def free_bytes(folder: str | os.PathLike) -> float:
    """Bytes that are free on the disk of a folder; a bucket has no limit."""
    return math.inf if is_remote(folder) else shutil.disk_usage(folder).free


def retried(path: str | os.PathLike, act: Callable[[], Result]) -> Result:
    """act(), tried again while it raises what may pass. Raises Unavailable after TRIES times."""
    tried = 0
    while True:
        tried += 1
        try:
            return act()
        except OSError as error:
            if not may_pass(error):
                raise
            reason = error.strerror or str(error) or type(error).__name__
            if tried == TRIES:
                raise Unavailable(path, f'{reason}, {TRIES} times') from error
        retries[reason] += 1
        time.sleep(FIRST_WAIT * 2 ** (tried - 1))


def may_pass(error: OSError) -> bool:
    """Whether trying again may help."""
    return error.errno in PASSING or isinstance(error, TimeoutError)


def check_regular(path: str | os.PathLike) -> int:
    """The size of a file on a disk, in bytes. OSError for a pipe, which would never answer, a device, or a folder."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(number, 'is not a regular file', os.fspath(path))
    return status.st_size


def _read(path):
    check_regular(path)
    with open(path, 'rb') as file:
        return file.read()


def _replace(path, data, durable):
    # A missing folder stays an error: a run whose folder someone deleted must not go on in an empty one.
    with atomic_write(path, durable=durable, make_folder=False) as partial, open(partial, 'wb') as file:
        file.write(data)


def _files(folder):
    paths = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): os.path.getsize(path) for path in paths if os.path.isfile(path)}


def _digest(path, kind):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, kind).hexdigest()

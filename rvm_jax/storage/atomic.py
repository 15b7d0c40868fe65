"""Files and folders on this machine's disk that appear whole or not at all, whenever their writer is killed.

Every file of this package that must not be half written is written through here.
"""

import contextlib
import errno
import functools
import os
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator

PREFIX = '.rvm_'  # of names while something is written
OLD = '.old'  # the end of the name of a folder that is being replaced


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, *, scratch: str | os.PathLike = '', durable: bool = False, make_folder: bool = True
) -> Iterator[str]:
    """Yield the name under which to write a file or folder; after the block it has become `path`.

    A file of that name is replaced, and so is a folder; of a link, what it leads to. After an error nothing is left
    behind. What a killed process left is deleted by the next one that writes the same; a folder that it was just about
    to replace comes back. Raises OSError for what is neither a file nor a folder, and for a folder in use.

    scratch is a folder of the same disk for what is not finished, '' for the folder of path. durable waits until a file
    is on the disk itself. Without make_folder a missing folder is an OSError.
    """
    path = write_target(path)
    if reason := cannot_replace(path):
        raise OSError(errno.EPERM, reason, path)
    folder, name = os.path.split(path)
    if make_folder:
        os.makedirs(folder, exist_ok=True)
    folder = os.path.abspath(scratch or folder)
    prefix = f'{PREFIX}{zlib.crc32(os.fsencode(name)):08x}_{socket.gethostname()}_'
    if not scratch:  # who made a scratch folder empties it; another machine may write there too
        _clear(folder, prefix, path)
    # The random part keeps apart two threads, or two containers with equal names, that write the same.
    partial = os.path.join(folder, f'{prefix}{os.getpid()}-{secrets.token_hex(4)}')
    try:
        yield partial
        if durable:
            with open(partial, 'rb') as file:
                os.fsync(file.fileno())
        if os.path.isdir(partial) and os.path.isdir(path):
            os.rename(path, partial + OLD)  # a half deleted folder must not look like one
        os.replace(partial, path)
    except BaseException:
        _put_back(partial + OLD, path)
        _delete(partial)  # it would keep a full disk full
        raise
    _delete(partial + OLD)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file under another name, then rename it, so that a reader never sees half of it."""
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        file.write(content)


def is_partial(path: str | os.PathLike) -> bool:
    """Whether a name is one under which something is still written."""
    return os.path.basename(path).startswith(PREFIX)


def write_target(path: str | os.PathLike) -> str:
    """The file or folder that a path leads to, through all links. Raises OSError for a device or pipe there.

    What replaces a file by a new one must not replace the link to it, and never a device.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(errno.EINVAL, 'is neither a file nor a folder', path)
    return path


def cannot_replace(path: str | os.PathLike) -> str:
    """Why the folder at a path must not be replaced by another one, '' if it may be (or is none)."""
    path = os.path.realpath(path)
    if not os.path.isdir(path):
        return ''
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        if os.path.commonpath([path, os.path.realpath(os.getcwd())]) == path:
            return 'is the current folder, or holds it'
    if path == os.path.realpath(os.path.expanduser('~')):
        return 'is your home folder'
    return 'is where a disk is mounted' if os.path.ismount(path) else ''


def _clear(folder, prefix, path):
    """Delete what dead processes of this machine left of the same file."""
    for name in _leftovers(folder):
        if name.startswith(prefix) and not _lives(name.removeprefix(prefix)):
            leftover = os.path.join(folder, name)
            _put_back(leftover, path)
            _delete(leftover)


@functools.cache
def _leftovers(folder):
    """Names of what processes write, or left, in a folder when this process first wrote there: it may hold millions."""
    return [name for name in os.listdir(folder) if is_partial(name)]


def _put_back(leftover, path):
    if leftover.endswith(OLD) and os.path.exists(leftover) and not os.path.exists(path):
        os.rename(leftover, path)


def _delete(path):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # it is gone, or the disk fails, which the caller sees anyway
            os.unlink(path)


def _lives(writer):
    """Whether the process still runs that a leftover's name names ('pid-token', with OLD at its end or without).

    One with our own number does not: containers number their processes alike after each start.
    """
    pid = writer.removesuffix(OLD).partition('-')[0]
    return pid != str(os.getpid()) and pid.isdecimal() and os.path.exists(f'/proc/{pid}')

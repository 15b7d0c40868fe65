"""Files and folders on this machine's disk that appear whole or not at all, whenever their writer is killed."""

import contextlib
import errno
import functools
import os
import shutil
import socket
import zlib

PREFIX = '.rvm_'  # of names while something is written
OLD = '.old'  # the end of the name of a folder that is being replaced


@contextlib.contextmanager
def atomic_write(path):
    """Yield the name under which to write a file or folder; after the block it has become `path`.

    A file of that name is replaced, and so is a folder; of a link, what it leads to. After an error nothing is left
    behind. What a killed process left is deleted by the next one that writes the same; a folder that it was just about
    to replace comes back. Raises OSError for what is neither a file nor a folder, and for a folder in use.
    """
    path = write_target(path)
    if reason := cannot_replace(path):
        raise OSError(errno.EBUSY, reason, path)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    partial = f'{PREFIX}{zlib.crc32(os.fsencode(name)):08x}_{socket.gethostname()}_'
    _clear(folder, partial, path)
    partial = os.path.join(folder, f'{partial}{os.getpid()}')
    try:
        yield partial
        if os.path.isdir(partial) and os.path.isdir(path):
            os.rename(path, partial + OLD)  # a half deleted folder must not look like one
        os.replace(partial, path)
    except BaseException:
        _put_back(partial + OLD, path)
        _delete(partial)
        raise
    _delete(partial + OLD)


def write_target(path):
    """The file or folder that a path leads to, through all links. Raises OSError for a device or pipe there.

    What replaces a file by a new one must not replace the link to it, and never a device.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(errno.EINVAL, 'is neither a file nor a folder', path)
    return path


def cannot_replace(path):
    """Why the folder at a path must not be replaced by another one, '' if it may be (or is none)."""
    path = os.path.realpath(path)
    if not os.path.isdir(path):
        return ''
    if os.path.commonpath([path, os.path.realpath(os.getcwd())]) == path:
        return 'is the current folder, or holds it'
    if path == os.path.realpath(os.path.expanduser('~')):
        return 'is your home folder'
    return 'is where a disk is mounted' if os.path.ismount(path) else ''


def _clear(folder, prefix, path):
    for name in _leftovers(folder):
        if name.startswith(prefix) and not _lives(name.removeprefix(prefix).removesuffix(OLD)):
            leftover = os.path.join(folder, name)
            _put_back(leftover, path)
            _delete(leftover)


@functools.cache
def _leftovers(folder):
    """Names of what processes write, or left, in a folder when this process first wrote there: it may hold millions."""
    return [name for name in os.listdir(folder) if name.startswith(PREFIX)]


def _put_back(leftover, path):
    if leftover.endswith(OLD) and os.path.exists(leftover) and not os.path.exists(path):
        os.rename(leftover, path)


def _delete(path):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _lives(pid):
    """Whether a process writes there. One of our own number did: containers number theirs alike after each start."""
    return pid != str(os.getpid()) and pid.isdecimal() and os.path.exists(f'/proc/{pid}')

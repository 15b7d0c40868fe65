"""What a data set is made of, so that a change under a running experiment is seen and shown.

A manifest is a list of [name, bytes, crc32 of both ends]; names are relative to the source's root. Of a folder of
frames, the checksum covers the names and sizes of all, its frame rate, and both ends of some.
"""

import concurrent.futures
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rvm_jax.data.video import frame_folder
from rvm_jax.errors import DataError, UserError, printable
from rvm_jax.storage import files

SAMPLER_VERSION = 2  # raise it when a change of code makes other clips from the same files and seed
END_BYTES = 64 * 1024
MOST_LINES = 10
SAMPLED = 8  # files of a folder of frames, evenly spread
AT_ONCE = 10_000  # files that wait to be read: each costs 2 kB meanwhile


class Described(Protocol):
    """A source, or a mixture of several: what a manifest is about."""

    @property
    def path(self) -> str:
        """What messages call it."""
        ...

    def __len__(self) -> int: ...

    def manifest(self) -> list[list]:
        """[[name, bytes, checksum], ...]."""
        ...


def file_entry(root: str, name: str) -> list:
    """[name, bytes, crc32] of one video; bytes is -1 for what is neither a regular file, which is never opened, nor a
    folder of files.

    Unavailable if a disk or network fails for long.
    """
    path = os.path.join(root, name)
    try:
        return files.retried(path, lambda: [name, *(_of_folder if os.path.isdir(path) else _size_and_ends)(path)])
    except (DataError, OSError, ValueError):  # decoding will name the file and the reason
        return [name, -1, 0]


def _size_and_ends(path):
    size = files.check_regular(path)
    with open(path, 'rb') as file:
        crc = zlib.crc32(file.read(END_BYTES))
        file.seek(max(size - END_BYTES, 0))
        return size, zlib.crc32(file.read(END_BYTES), crc)


def _of_folder(path):
    names = frame_folder.visible_names(path)
    if not frame_folder.looks_like_frames(names):  # a list may name any folder: no file of it is looked at
        return -1, 0
    sizes = [_size(os.path.join(path, name)) for name in names]
    sampled = {round(place) for place in np.linspace(0, len(names) - 1, min(SAMPLED, len(names)))}
    ends = [_size_and_ends(os.path.join(path, names[i]))[1] for i in sorted(sampled) if sizes[i] >= 0]
    text = json.dumps([names, sizes, ends, frame_folder.rate_text(path)])
    return sum(size for size in sizes if size > 0), zlib.crc32(text.encode())


def _size(path):
    """Bytes of a regular file, -1 of anything else."""
    try:
        return files.check_regular(path)
    except OSError as error:
        if files.may_pass(error):
            raise
        return -1


def file_entries(root: str, names: Sequence[str]) -> list[list]:
    """The entries of many files, in order; read by many threads, because this waits for disks and networks."""
    entries: list[list] = []
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for first in range(0, len(names), AT_ONCE):
            entries += pool.map(lambda name: file_entry(root, name), names[first : first + AT_ONCE])
    return entries


def fingerprint(manifest: list[list]) -> str:
    """Hex digest over a manifest and the sampler version."""
    text = json.dumps([SAMPLER_VERSION, manifest])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compare_manifests(old: list[list], new: list[list]) -> list[str]:
    """Lines that say which files were added, removed or changed, or that only their order differs; [] if equal."""
    before, after = ({name: tuple(rest) for name, *rest in entries} for entries in (old, new))
    lines = [f'added {name}' for name in sorted(after.keys() - before.keys())]
    lines += [f'removed {name}' for name in sorted(before.keys() - after.keys())]
    lines += [f'changed {name}' for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]
    if not lines and list(map(list, old)) != list(map(list, new)):
        lines = ['the same files in another order or number']
    return lines


def write_manifest(path: str | os.PathLike, source: Described) -> None:
    """Write down (JSON) what a source is made of."""
    files.write_json(path, {'sampler_version': SAMPLER_VERSION, 'videos': len(source), 'files': source.manifest()})


def check_unchanged(path: str | os.PathLike, source: Described, allow_change: bool = False) -> str | None:
    """Compare a source with the manifest at path, if there is one; None if nothing changed.

    Otherwise a one-line notice if allow_change, UserError with the differences if not. UserError, too, if the manifest
    cannot be read.
    """
    if not files.exists(path):
        return None
    try:
        old = files.read_json(path)
        lines = compare_manifests(old['files'], source.manifest())
        old_version = old['sampler_version']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(path, f'is not a manifest ({error})', 'delete it to take the data as they are now') from error
    if old_version != SAMPLER_VERSION:
        lines.append(f'clips are drawn by rule {SAMPLER_VERSION}, this run began with rule {old_version}')
    if not lines:
        return None
    summary = '; '.join(lines[:MOST_LINES]) + (
        f'; and {len(lines) - MOST_LINES} more' if len(lines) > MOST_LINES else ''
    )
    if not allow_change:
        raise UserError(
            source.path,
            f'changed since this run began ({summary})',
            'restore the files, or continue with --config.data.allow_change=true',
        )
    return f'the data changed since this run began, continuing as allowed: {printable(summary)}'

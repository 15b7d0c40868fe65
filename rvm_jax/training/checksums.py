"""The manifest of a folder: size and checksum of each file, and a digest of the manifest itself."""

import hashlib
import json
import os
from typing import Any

from rvm_jax.errors import Unavailable
from rvm_jax.storage import files

NAME = 'rvm_manifest.json'
MAX_BYTES = 32 * 2**20  # of a manifest; a line for each array and file of a large run is far less
KINDS = ('sha256', 'md5')  # md5 in a bucket, because the store knows it already


class Damaged(Exception):
    """A file that is missing, cut short or changed; the message names it."""


def write_manifest(folder: str, contents: dict[str, Any]) -> None:
    """Write contents and an entry for each file in the folder's subfolders; the manifest appears whole or not at all.

    Files directly in the folder are left out: Orbax rewrites them later, and a restore does not need them.
    """
    kind = 'md5' if files.is_remote(folder) else 'sha256'
    entries = {
        name: {'size': size, kind: files.digest(os.path.join(folder, name), kind)}
        for name, size in files.files(folder).items()
        if os.path.dirname(name)
    }
    manifest = {**contents, 'files': entries}
    values = {**manifest, 'digest': _digest(manifest)}
    files.write_json(os.path.join(folder, NAME), values, indent=1, durable=True)


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest's contents, checked against its own digest. Raises Damaged."""
    path = os.path.join(folder, NAME)
    try:
        manifest = files.read_json(path, MAX_BYTES)
    except FileNotFoundError:
        raise Damaged(f'{path} is missing') from None
    except (OSError, ValueError) as error:
        raise Damaged(f'{path} cannot be read ({error})') from error
    if not isinstance(manifest, dict) or manifest.pop('digest', None) != _digest(manifest):
        raise Damaged(f'{path} was changed: its digest does not match')
    entries = manifest.get('files')
    if not (
        isinstance(entries, dict) and all(map(_is_entry, entries.values())) and isinstance(manifest.get('tree'), dict)
    ):
        raise Damaged(f'{path} is not a manifest that rvm_jax wrote')
    return manifest


def verify(folder: str) -> dict[str, Any]:
    """Compare every file with the manifest, sizes first, and return it. Raises Damaged at the first difference."""
    manifest = read_manifest(folder)
    sizes = files.files(folder)
    for name, expected in manifest['files'].items():
        path = os.path.join(folder, name)
        if name not in sizes:
            raise Damaged(f'{path} is missing')
        if sizes[name] != expected['size']:
            raise Damaged(f'{path} has {sizes[name]} bytes instead of {expected["size"]}')
    for name, expected in manifest['files'].items():
        [kind] = [kind for kind in KINDS if kind in expected]
        if _checksum(os.path.join(folder, name), kind) != expected[kind]:
            raise Damaged(f'{os.path.join(folder, name)} does not match its checksum')
    return manifest


def _is_entry(facts):
    """Whether a manifest's entry for a file is complete: its size, and one checksum."""
    kinds = [kind for kind in KINDS if isinstance(facts, dict) and isinstance(facts.get(kind), str)]
    return len(kinds) == 1 and type(facts.get('size')) is int


def _checksum(path, kind):
    try:
        return files.digest(path, kind)
    except OSError as error:
        raise Damaged(f'{path} cannot be read ({error.strerror})') from error
    except Unavailable as error:
        if files.is_remote(path):  # the store does not answer, which says nothing about this file
            raise
        raise Damaged(f'{path} cannot be read ({error.reason})') from error  # a bad part of the disk


def _digest(manifest):
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

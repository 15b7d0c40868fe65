"""The manifest of a folder: size and SHA-256 of each file, and a digest of the manifest itself."""

import hashlib
import json
import os

NAME = 'rvm_manifest.json'


class Damaged(Exception):
    """A file that is missing, cut short or changed; the message names it."""


def write_manifest(folder, contents):
    """Write contents and a line for each file below the folder's subfolders; the file appears whole or not at all.

    Files directly in the folder are left out: Orbax still rewrites them, and a restore does not need them.
    """
    files = {name: _measure(os.path.join(folder, name)) for name in _nested_files(folder)}
    manifest = {**contents, 'files': files}
    path = os.path.join(folder, NAME)
    with open(f'{path}.tmp', 'w') as file:
        json.dump({**manifest, 'digest': _digest(manifest)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f'{path}.tmp', path)


def read_manifest(folder):
    """The manifest's contents, checked against its own digest. Raises Damaged."""
    path = os.path.join(folder, NAME)
    try:
        with open(path, 'rb') as file:
            manifest = json.load(file)
    except FileNotFoundError:
        raise Damaged(f'{path} is missing') from None
    except (OSError, ValueError) as error:
        raise Damaged(f'{path} cannot be read ({error})') from error
    if not isinstance(manifest, dict) or manifest.pop('digest', None) != _digest(manifest):
        raise Damaged(f'{path} was changed: its digest does not fit')
    return manifest


def verify(folder):
    """Compare every file with the manifest, sizes first, and return it. Raises Damaged at the first difference."""
    manifest = read_manifest(folder)
    for name, expected in manifest['files'].items():
        path = os.path.join(folder, name)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        if size is None:
            raise Damaged(f'{path} is missing')
        if size != expected['size']:
            raise Damaged(f'{path} has {size} bytes instead of {expected["size"]}')
    for name, expected in manifest['files'].items():
        path = os.path.join(folder, name)
        try:
            found = _measure(path)
        except OSError as error:
            raise Damaged(f'{path} cannot be read ({error.strerror})') from error
        if found != expected:
            raise Damaged(f'{path} does not match its checksum')
    return manifest


def _nested_files(folder):
    for root, _, names in os.walk(folder):
        if root != str(folder):
            yield from sorted(os.path.relpath(os.path.join(root, name), folder) for name in names)


def _measure(path):
    with open(path, 'rb') as file:
        return {'size': os.fstat(file.fileno()).st_size, 'sha256': hashlib.file_digest(file, 'sha256').hexdigest()}


def _digest(manifest):
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

"""Video files as a source: a folder, a glob, a list of files, or one file."""

import collections
import dataclasses
import functools
import glob
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TextIO

from rvm_jax.data.dataset_manifest import file_entries, fingerprint
from rvm_jax.data.sources.source import Video
from rvm_jax.data.video.decode import open_video
from rvm_jax.errors import UserError
from rvm_jax.storage import files

VIDEO_EXTENSIONS = frozenset('.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv'.split())
# Trash and older copies that do not start with a dot, of Windows and of network disks.
NOT_SEARCHED = frozenset(['$RECYCLE.BIN', '#recycle', '@Recycle', '#snapshot', '@eaDir', 'lost+found'])
BLANK = ' \t\r\n'  # around names; other spaces may belong to them
MAX_PATH = 4096  # characters; the longest that Linux takes
FORMS = (
    'give a folder of videos, a glob, a text file with one video a line, a video, a folder of shards, or the name of a '
    'TFDS dataset'
)


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """One video of a source: its path is its name."""

    name: str

    def open(self, timeout_s: float | None) -> AbstractContextManager[Video]:
        """Open it for as long as a `with` block lasts; see `decode.open_video`."""
        return open_video(self.name, timeout_s)


class FolderSource:
    """source[i] is video i (VideoFile), len(source) their number; sorted by name, the same on every machine.

    path is a folder (searched to the bottom), a glob ('**' too), a text file with one path a line, relative to its own
    folder (blank lines and lines that start with # are ignored, the order is kept), or one video file. Folders and
    globs give files that have a video's extension and no leading dot, and folders that are hidden (a leading dot, such
    as .Trash-1000 or .snapshot), trash or snapshots are not searched, unless the path itself names them. Links that
    lead nowhere are kept: decoding reports them.
    UserError if nothing is found.
    """

    fps = None  # files have their own rates

    @staticmethod
    def knows(path: str) -> bool:
        """Yes: it is asked last."""
        return True

    def __init__(self, path: str | os.PathLike, split: str = ''):
        del split  # files do not know to which they belong
        self.path = os.fspath(path)
        self.root, self.names = files.retried(self.path, lambda: _list_videos(os.path.expanduser(self.path)))
        self._manifest: list[list] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VideoFile:
        return VideoFile(os.path.join(self.root, self.names[index]))

    def manifest(self) -> list[list]:
        """[[name, bytes, crc32], ...] in order; reads the two ends of every file, once."""
        if self._manifest is None:
            self._manifest = file_entries(self.root, self.names)
        return self._manifest

    def fingerprint(self) -> str:
        """Hex digest of the manifest and of the rule by which clips are drawn; moving the folder does not change it."""
        return fingerprint(self.manifest())


def _list_videos(path):
    """(root, names relative to it)."""
    if not path:
        raise UserError("data.path ''", 'is not set', FORMS)
    if glob.has_magic(path) and not os.path.lexists(path):
        root = _fixed_part(path)
        pattern = os.path.join(glob.escape(root), os.path.relpath(path, root or '.'))
        matches = glob.glob(pattern, recursive=True)
        found = [p for p in matches if not os.path.isdir(p) and _may_match(path, root, p)]
    elif os.path.isdir(path):
        found, root = _walk(path), path
    elif os.path.isfile(path):
        if _has_extension(path):
            return os.path.dirname(path), [os.path.basename(path)]
        return os.path.dirname(path), _read_list(path)
    else:
        raise UserError(
            path, 'does not exist' if not os.path.lexists(path) else 'is neither a file nor a folder', FORMS
        )
    names = sorted(os.path.relpath(p, root or '.') for p in found if _is_video(p))
    if not names:
        raise UserError(
            path, f'holds no video ({_describe(found)})', f'known extensions: {" ".join(sorted(VIDEO_EXTENSIONS))}'
        )
    return root, names


def _is_video(path):
    return not os.path.basename(path).startswith('.') and _has_extension(path)


def _has_extension(path):
    return os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS


def _may_match(pattern, root, path):
    """Whether a glob found a file without a look into trash that it does not name."""
    folders = os.path.relpath(os.path.dirname(path), root or '.').split(os.sep)
    return not NOT_SEARCHED.intersection(folders) - set(pattern.split(os.sep))


def is_searched(folder: str) -> bool:
    """Whether a folder of this name is searched: it is neither hidden nor trash nor a snapshot."""
    return not folder.startswith('.') and folder not in NOT_SEARCHED


def _fixed_part(pattern):
    """The folder before the first wildcard of a glob; a folder that is there has none, be it named runs[1]."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder) and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _walk(folder):
    """Every file below folder, hidden folders aside, also through links, each real folder once: links may circle."""
    found, seen = [], set()
    for directory, subdirectories, names in os.walk(folder, followlinks=True, onerror=_raise_passing):
        real = os.path.realpath(directory)
        if real in seen:
            subdirectories.clear()
            continue
        seen.add(real)
        # Sorted: which of two links to one folder counts must not depend on the disk.
        subdirectories[:] = sorted(filter(is_searched, subdirectories))
        found += [os.path.join(directory, name) for name in names]
    return found


def _raise_passing(error):
    """Leave out a folder without permission; raise where a disk or network fails to list one."""
    if files.may_pass(error):
        raise error


def _read_list(path):
    try:
        with open(path, encoding='utf-8-sig', errors='surrogateescape') as file:
            names = [line.strip(BLANK) for line in bounded_lines(path, file, MAX_PATH, FORMS)]
    except OSError as error:
        _raise_passing(error)
        raise UserError(path, f'cannot be read ({error.strerror})', FORMS) from error
    names = [name for name in names if name and not name.startswith('#')]
    if not names:
        raise UserError(path, 'is a list without a line', FORMS)
    return names


def bounded_lines(path: str, file: TextIO, most: int, fix: str) -> Iterator[str]:
    """Yield the lines of a text file. UserError for one of more than `most` characters or with a null byte."""
    for number, line in enumerate(iter(functools.partial(file.readline, most + 1), ''), 1):
        if '\0' in line:
            raise UserError(path, 'is neither a known kind of video nor a text file', fix)
        if len(line) > most and not line.endswith('\n'):
            raise UserError(f'{path} line {number}', f'is longer than {most:,} characters', fix)
        yield line


def _describe(found):
    if not found:
        return 'found no file at all'
    kinds = collections.Counter(os.path.splitext(p)[1].lower() or 'no extension' for p in found)
    return 'found only ' + ', '.join(f'{count} {kind}' for kind, count in kinds.most_common(5))

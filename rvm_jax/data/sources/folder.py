"""Videos as a source: a folder, a glob, a list, or one video. A video is a file, or a folder of numbered pictures."""

import collections
import dataclasses
import functools
import glob
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

from rvm_jax.data.dataset_manifest import file_entries, fingerprint
from rvm_jax.data.sources.source import Video
from rvm_jax.data.video import frame_folder
from rvm_jax.data.video.decode import open_video
from rvm_jax.errors import UserError, printable
from rvm_jax.storage import files

VIDEO_EXTENSIONS = frozenset(
    '.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .gif'.split()
)
# Trash and older copies that do not start with a dot, of Windows and of network disks.
NOT_SEARCHED = frozenset(['$RECYCLE.BIN', '#recycle', '@Recycle', '#snapshot', '@eaDir', 'lost+found'])
BLANK = ' \t\r\n'  # around names; other spaces may belong to them
MAX_PATH = 4096  # characters; the longest that Linux takes
FORMS = (
    'give a folder of videos, a glob, a text file with one video a line, a video, a folder of numbered pictures, a '
    'folder of shards, or the name of a TFDS dataset'
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
    folder (blank lines and lines that start with # are ignored, the order is kept), or one video. Folders and
    globs give files that have a video's extension and no leading dot, and folders that are hidden (a leading dot, such
    as .Trash-1000 or .snapshot), trash or snapshots are not searched, unless the path itself names them. Links that
    lead nowhere are kept: decoding reports them.
    Where no such file is found, they give the folders that are meant as videos (`frame_folder.looks_like_frames`).
    Beside video files such folders may be thumbnails: they are left out with a warning, and only a list or the path
    itself can name them.
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
        """[[name, bytes, crc32], ...] in order; reads the two ends of every file, or of some of a folder, once."""
        if self._manifest is None:
            self._manifest = file_entries(self.root, self.names)
        return self._manifest

    def fingerprint(self) -> str:
        """Hex digest of the manifest and of the rule by which clips are drawn; moving the folder does not change it."""
        return fingerprint(self.manifest())


def warn_of_rates(origin: str, videos: Iterable[str], fps: float, key: str) -> None:
    """Log which rate is taken for the folders of frames among some videos that state none; key is where it is from."""
    paths = (path for path in videos if not _has_extension(path) and os.path.isdir(path))
    if folders := [path for path in paths if not frame_folder.has_rate(path)]:
        what = f'{len(folders):,} folders of frames, such as {folders[0]}, have' if folders[1:] else f'{folders[0]} has'
        logging.getLogger(__name__).warning(
            '%s: %s no %s; the frames are taken as %g per second (%s)', printable(origin), printable(what),
            frame_folder.RATE, fps, key,
        )  # fmt: skip


def _list_videos(path):
    """(root, names relative to it)."""
    if not path:
        raise UserError("data.path ''", 'is not set', FORMS)
    if glob.has_magic(path) and not os.path.lexists(path):
        root = _fixed_part(path)
        found = _match(path, root)
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
    videos = found.videos or found.outermost()
    if not videos:
        has_pictures = not found.kinds.keys().isdisjoint(frame_folder.PICTURES)
        fix = 'as a video, name a folder of pictures that are numbered, not the pictures' if has_pictures else (
            f'known extensions: {" ".join(sorted(VIDEO_EXTENSIONS))}')  # fmt: skip
        raise UserError(path, f'holds no video ({found.describe()})', fix)
    if found.videos and found.folders:
        _warn(path, found)
    if videos == [path]:  # it is one itself
        whole = os.path.normpath(path)
        root, name = os.path.split(os.path.abspath(path) if os.path.basename(whole) in ('.', '..') else whole)
        return root, [name]
    return root, sorted(os.path.relpath(video, root or '.') for video in videos)


@dataclasses.dataclass
class _Found:
    """What a search has found: paths of video files, folders meant as videos, and how many files of each kind."""

    videos: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add_files(self, paths: Iterable[str]) -> None:
        """Count files, and keep those that are videos."""
        for path in paths:
            if _is_video(path):
                self.videos.append(path)
            self.kinds[os.path.splitext(path)[1].lower() or 'no extension'] += 1

    def outermost(self) -> list[str]:
        """The folders that lie in no other one of them: masks beside frames are no video."""
        there = set(map(os.path.normpath, self.folders))
        return [folder for folder in self.folders if there.isdisjoint(_parents(os.path.normpath(folder)))]

    def describe(self) -> str:
        """What there is, in words."""
        if not self.kinds:
            return 'found no file at all'
        return 'found only ' + ', '.join(f'{count} {kind}' for kind, count in self.kinds.most_common(5))


def _parents(path):
    while (parent := os.path.dirname(path)) not in (path, ''):
        yield parent
        path = parent


def _warn(path, found):
    count, first = len(found.folders), printable(min(found.folders))
    logging.getLogger(__name__).warning(
        '%s: %s of numbered pictures, such as %s, %s not taken as videos, because there are video files; to train on '
        'them, name them in a list', printable(path), f'{count:,} folder{"s" * (count > 1)}', first,
        'are' if count > 1 else 'is',
    )  # fmt: skip


def _is_video(path):
    return not os.path.basename(path).startswith('.') and _has_extension(path)


def _has_extension(path):
    return os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS


def _match(pattern, root):
    """What a glob finds, without a look into trash that it does not name."""
    relative = os.path.join(glob.escape(root), os.path.relpath(pattern, root or '.'))
    paths = [path for path in glob.glob(relative, recursive=True) if _may_match(pattern, root, path)]
    folders = set(filter(os.path.isdir, paths))
    found = _Found(folders=list(filter(frame_folder.is_frame_folder, folders)))
    found.add_files(path for path in paths if path not in folders)
    return found


def _may_match(pattern, root, path):
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
    """What lies below folder, hidden folders aside, also through links, each real folder once: links may circle."""
    found, seen = _Found(), set()
    for directory, subdirectories, names in os.walk(folder, followlinks=True, onerror=_raise_passing):
        real = os.path.realpath(directory)
        if real in seen:
            subdirectories.clear()
            continue
        seen.add(real)
        # Sorted: which of two links to one folder counts must not depend on the disk.
        subdirectories[:] = sorted(filter(is_searched, subdirectories))
        found.add_files(os.path.join(directory, name) for name in names)
        if frame_folder.looks_like_frames([*names, *subdirectories]):
            found.folders.append(directory)
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

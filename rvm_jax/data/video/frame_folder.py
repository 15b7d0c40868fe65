"""A folder of numbered pictures as a video: video/000001.jpg, video/000002.jpg, ...

The pictures (JPEG, PNG, WebP) are the frames, in the order of the numbers at the ends of their names, whatever these
begin with. They must follow one another without gaps, and be alike: one beginning, one kind, one size. Nothing but
hidden files and RATE may lie beside them.

A folder has no times. Where RATE, a text file in the folder or in the one that holds it, gives frames per second, the
frames lie evenly in time, and are chosen as those of a file. Without it they are taken as they are, for the ticks of
whatever rate is asked for: tick k is frame k.

Only the frames that are asked for are read. They come upright, by the EXIF orientation of JPEGs.
"""

import dataclasses
import functools
import itertools
import math
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

import cv2
import numpy as np

from rvm_jax.data.video.container import raise_if_passing
from rvm_jax.data.video.lazy_frames import JPEG_START, LazyFrames, check_clip, encoded
from rvm_jax.data.video.ticks import count_at, frame_at
from rvm_jax.data.video.timestamps import LONGEST_S
from rvm_jax.data.video.video_info import VideoInfo
from rvm_jax.errors import DataError
from rvm_jax.storage import files

PICTURES = frozenset(['.jpg', '.jpeg', '.png', '.webp'])
RATE = 'fps.txt'
IGNORED = frozenset([RATE, 'Thumbs.db', 'desktop.ini', '@eaDir'])  # Windows and network disks leave the others
NUMBERED = re.compile(r'(.*?)([0-9]+)', re.DOTALL)
MOST_BYTES = 2**27  # of one picture
MOST_TEXT = 64  # bytes of RATE
LISTED = 8  # folders whose names a process keeps
ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 5 to 8 swap rows and columns
# (columns are mirrored first, then quarter turns counter-clockwise) that make each orientation upright.
TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
EXIF, EXIF_WITHIN = b'Exif\0\0', 2**16  # bytes in which EXIF begins, and its first table lies
BYTE_ORDERS: dict[bytes, Literal['little', 'big']] = {b'II*\0': 'little', b'MM\0*': 'big'}
FIX = 'correct the folder, or leave it out'


def looks_like_frames(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is meant as a video: most of them are numbered pictures."""
    visible = list(filter(_counts, names))
    return 2 * sum(map(_is_numbered, visible)) > len(visible)


def is_frame_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder that is meant as a video. OSError if a disk or network fails to list it."""
    try:
        return os.path.isdir(path) and looks_like_frames(os.listdir(path))
    except OSError as error:  # no permission
        raise_if_passing(os.fspath(path), error)
        return False


def visible_names(path: str | os.PathLike) -> list[str]:
    """Names of all that counts in a folder, sorted as text; RATE does not."""
    return sorted(filter(_counts, os.listdir(path)))


def video_bytes(path: str | os.PathLike) -> int:
    """Bytes of a video: of its file, or of all files of its folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    with os.scandir(os.fspath(path)) as entries:
        return sum(entry.stat().st_size for entry in entries if _counts(entry.name))


def has_rate(path: str | os.PathLike) -> bool:
    """Whether there is a RATE for the frames in a folder, be it right or wrong."""
    return any(os.path.exists(place) for place in _rate_files(os.fspath(path)))


def frame_rate(path: str | os.PathLike) -> float | None:
    """Frames per second by the RATE in a folder, or in the one that holds it; None where there is none.

    DataError if it is not a number above 0.
    """
    text = rate_text(path)
    return None if text is None else _rate(os.fspath(path), text)


def rate_text(path: str | os.PathLike) -> str | None:
    """What the RATE of a folder says; None where there is none. DataError if it cannot be read."""
    path = os.fspath(path)
    found = (_read(path, place, MOST_TEXT, is_required=False) for place in _rate_files(path))
    return next((text.decode('utf-8-sig', 'replace').strip() for text in found if text is not None), None)


def list_frames(path: str | os.PathLike) -> tuple[str, ...]:
    """The names of a folder's frames in order. DataError if it is not a video as this module says."""
    path = os.fspath(path)
    try:
        return _listed(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise_if_passing(path, error)
        raise DataError(path, f'cannot be read ({error.strerror})', 'check the path') from error


@functools.lru_cache(LISTED)
def _listed(path, _changed_ns):
    """list_frames of a folder, for as long as nothing is added to it: each clip would list it again."""
    names = visible_names(path)
    frames = [name for name in names if _is_numbered(name)]
    if not frames:
        raise DataError(path, 'is a folder without numbered pictures', FIX)
    if other := next((name for name in names if not _is_numbered(name)), None):
        raise DataError(path, f'holds more than numbered pictures ({other})', FIX)
    frames.sort(key=_number)  # sorted by text before: the same on every machine, also where two have one number
    for before, after in itertools.pairwise(frames):
        if _parts(after)[::2] != _parts(before)[::2]:
            raise DataError(path, f'mixes names of frames ({before} and {after})', 'give each video a folder')
        if _number(after) == _number(before):
            raise DataError(path, f'has one number twice ({before} and {after})', FIX)
    for before, after in itertools.pairwise(frames):
        if _number(after) != _number(before) + 1:
            fix = 'add what is missing, or number the frames without gaps'
            raise DataError(path, f'lacks frames ({before} is followed by {after})', fix)
    return tuple(frames)


class FrameFolder:
    """An open video whose frames are numbered pictures in a folder; it gives up timeout_s seconds from now.

    The methods are those of `decode.Video`. DataError as in `list_frames` and `frame_rate`; from the calls that give
    frames, if one of these cannot be decoded, or has another size than the rest of a clip. Every call may raise the
    OSError of a disk or network that fails in a way that may pass.
    """

    def __init__(self, path: str | os.PathLike, timeout_s: float | None = None) -> None:
        self.path, self._timeout_s = os.fspath(path), timeout_s
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._names, self.rate = list_frames(path), frame_rate(path)
        if self.rate and len(self._names) / self.rate > LONGEST_S:
            reason = f'lasts {len(self._names) / self.rate:.3g} s by its {RATE}, and no video is longer than 48 hours'
            raise DataError(self.path, reason, 'write frames per second')

    def info(self) -> VideoInfo:
        """VideoInfo; decodes the first frame."""
        height, width, _ = self._picture(0).decode()[0].shape
        seconds = len(self._names) / self.rate if self.rate else 0.0
        return VideoInfo(len(self._names), self.rate, seconds, height, width, 0, has_times=bool(self.rate))

    def count(self, fps: float) -> int:
        """Ticks of fps that it holds: all frames where it has no rate."""
        return count_at(len(self._names), fps, self.rate or fps)

    def read(self, ticks: Sequence[int] | np.ndarray, fps: float) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 nearest to ticks (integers, any order)."""
        unique, places = np.unique(np.asarray(ticks), return_inverse=True)
        return np.stack(list(self.pictures(unique, fps).decode()))[places]

    def pictures(self, ticks: Sequence[int] | np.ndarray, fps: float) -> LazyFrames:
        """LazyFrames of the frames nearest to ticks; JPEGs are decoded at a fraction of their size where that does."""
        numbers = [self._at(int(tick), fps) for tick in ticks]
        unique = sorted(set(numbers))
        found = [self._picture(number) for number in unique]
        first = found[0]
        for number, one in zip(unique, found, strict=True):
            if (one.height, one.width) != (first.height, first.width):
                sizes = f'{self._names[number]} is not {first.width} x {first.height} as {self._names[unique[0]]}'
                raise DataError(self.path, f'changes its size between frames ({sizes})', FIX)
        check_clip(self.path, len(numbers), first.height, first.width)

        def decode(shrink=1):
            frames = []
            for one in found:
                self._check_time()
                frames.append(one.decode(shrink)[0])
            return frames

        return LazyFrames(len(found), first.height, first.width, decode).take(
            [unique.index(number) for number in numbers]
        )

    def stream(self, fps: float | None = None, first: int = 0, short_side: int | None = None) -> Iterator[np.ndarray]:
        """Yield frames (H, W, 3) uint8 to the last: every one, or the nearest to each tick of fps from `first` on.

        Frames whose shorter side has more than short_side pixels are scaled down to it, averaging over areas.
        """
        ticks = range(first, len(self._names) if fps is None else self.count(fps))
        before, frame_HWC = -1, np.empty(0)
        for number in (tick if fps is None else self._at(tick, fps) for tick in ticks):
            if number != before:
                before, frame_HWC = number, _scaled(self._picture(number), short_side)
            yield frame_HWC

    def _at(self, tick, fps):
        number = frame_at(tick, fps, self.rate or fps)
        if not 0 <= number < len(self._names):
            raise DataError(self.path, f'ends before it should (it has {len(self._names)} frames)', FIX)
        return number

    def _picture(self, number):
        """LazyFrames of one frame, upright; nothing but its header has been decoded."""
        self._check_time()
        name = self._names[number]
        blob = _read(self.path, os.path.join(self.path, name), MOST_BYTES)
        try:
            return _upright(encoded(name, [blob]), blob, functools.partial(self._damaged, name))
        except DataError as error:
            raise self._damaged(name, error) from error

    def _check_time(self):
        if time.monotonic() > self._deadline:
            raise DataError(self.path, f'takes too long to decode (more than {self._timeout_s:g} s)', FIX)

    def _damaged(self, name, error):
        return DataError(self.path, f'is damaged ({name} {error.reason})', FIX)


def _scaled(picture, short_side):
    """The frame of LazyFrames, scaled down to short_side pixels where it is larger."""
    side = min(picture.height, picture.width)
    if not short_side or side <= short_side:
        return picture.decode()[0]
    shrink = max(factor for factor in (1, 2, 4, 8) if factor == 1 or side >= factor * short_side)
    scale = short_side / side
    size = round(picture.width * scale), round(picture.height * scale)
    return cv2.resize(picture.decode(shrink)[0], size, interpolation=cv2.INTER_AREA)


def _upright(picture, blob, damaged):
    """LazyFrames as its JPEG says that it is to be shown; damaged(error) makes what `decode` raises."""
    is_mirrored, turns = TURNS.get(_orientation(blob), (False, 0))
    height, width = (picture.width, picture.height) if turns % 2 else (picture.height, picture.width)

    def decode(shrink=1):
        try:
            frame_HWC = picture.decode(shrink)[0]
        except DataError as error:
            raise damaged(error) from error
        frame_HWC = frame_HWC[:, ::-1] if is_mirrored else frame_HWC
        return [np.ascontiguousarray(np.rot90(frame_HWC, turns))]

    return dataclasses.replace(picture, height=height, width=width, decode=decode)


def _orientation(blob):
    """By EXIF, of a JPEG; 1 where there is none that can be read: viewers then show a picture as it is stored."""
    start = blob.find(EXIF, 0, EXIF_WITHIN)
    if start < 0 or not blob.startswith(JPEG_START):
        return 1
    tiff = blob[start + len(EXIF) : start + EXIF_WITHIN]
    order = BYTE_ORDERS.get(tiff[:4], 'big')
    place = int.from_bytes(tiff[4:8], order) if tiff[:4] in BYTE_ORDERS else len(tiff)
    for entry in range(int.from_bytes(tiff[place : place + 2], order)):
        field = tiff[place + 2 + 12 * entry : place + 14 + 12 * entry]
        if int.from_bytes(field[:2], order) == ORIENTATION or len(field) < 12:
            return int.from_bytes(field[8:10], order)
    return 1


def _read(folder, path, most, is_required=True):
    """Bytes of a file that belongs to a folder; None for one that is not there and not required."""
    try:
        size = files.check_regular(path)
        if size > most:
            raise DataError(folder, f'holds a file that is too large ({os.path.basename(path)}, {size:,} bytes)', FIX)
        with open(path, 'rb') as file:
            return file.read(most)
    except OSError as error:
        raise_if_passing(path, error)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not is_required:
            return None
        raise DataError(folder, f'cannot be read ({os.path.basename(path)}: {error.strerror})', FIX) from error


def _rate_files(path):
    """Where the RATE of a folder may be; the first one counts."""
    return [os.path.join(place, RATE) for place in (path, os.path.dirname(os.path.abspath(path)))]


def _rate(folder, text):
    """Frames per second from the text of RATE: 25, 29.97 or 30000/1001."""
    above, slash, below = text.partition('/')
    try:
        rate = float(above) / float(below if slash else 1)
    except (ValueError, ZeroDivisionError):
        rate = math.nan
    if not 0 < rate < math.inf:
        reason = f'has a {RATE} without a frame rate ({text!r})'
        raise DataError(folder, reason, 'write frames per second, such as 25 or 30000/1001')
    return rate


def _counts(name):
    return not name.startswith('.') and name not in IGNORED


def _is_numbered(name):
    return _parts(name) is not None


def _number(name):
    return _parts(name)[1]


def _parts(name):
    """(what the name begins with, number, extension) of a numbered picture; None of anything else."""
    stem, extension = os.path.splitext(name)
    found = NUMBERED.fullmatch(stem)
    return (found[1], int(found[2]), extension) if found and extension.lower() in PICTURES else None

"""Shards, as `rvm prepare` writes them, as a source: one record a sequence of frames."""

import bisect
import collections
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Numbers
from typing import Any, Self

import numpy as np

from rvm_jax.data import shard_format, shard_manifest
from rvm_jax.data.dataset_manifest import fingerprint
from rvm_jax.data.video.lazy_frames import LazyFrames
from rvm_jax.data.video.shard_codecs import group_pictures
from rvm_jax.data.video.ticks import count_at, frame_at
from rvm_jax.errors import UserError

MAX_OPEN = 256  # shards that a process keeps open


class ShardSource:
    """source[i] is sequence i (Sequence), len(source) their number, in the order of the input of `rvm prepare`.

    path is a folder with a manifest.json, split 'train' or 'val'. Sizes of all shards are compared with the manifest at
    once, the number of records when a shard is opened, and each record's checksum when it is read.
    UserError if there is no such split, DataError if a shard is missing or was cut off.
    """

    @staticmethod
    def knows(path: str) -> bool:
        """Whether a path is a folder of shards."""
        return shard_format.is_shards(os.path.expanduser(path))

    def __init__(self, path: str | os.PathLike, split: str):
        self.path = os.path.expanduser(path)
        manifest = shard_format.read_manifest(self.path)
        settings = manifest['settings']
        self.fps, self.group, self.codec = settings['fps'], settings['group'], settings['codec']
        self.shards = [shard for shard in manifest['shards'] if shard['split'] == split]
        if not self.shards:
            fix = 'prepare it with a larger --val, or leave data.eval_path empty' if split == 'val' else 'lower --val'
            raise UserError(self.path, f'does not have a {split} split', fix)
        shard_format.check_sizes(self.path, self.shards)
        self.frames = [np.array(shard['frames'], np.int32) for shard in self.shards]  # of each sequence of each shard
        self._ends = list(itertools.accumulate(map(len, self.frames)))
        # shard number -> open shard, the one used last at the end
        self._readers: collections.OrderedDict[int, shard_format.ShardReader] = collections.OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> 'Sequence':
        number = bisect.bisect_right(self._ends, index)
        return Sequence(self, number, index - (self._ends[number - 1] if number else 0))

    def __getstate__(self):
        return {**self.__dict__, '_readers': collections.OrderedDict()}

    def manifest(self) -> list[list]:
        """[[name, bytes, sha256], ...] of the shards."""
        return [[shard['name'], shard['bytes'], shard['sha256']] for shard in self.shards]

    def fingerprint(self) -> str:
        """Hex digest of the shards' checksums; moving or renaming the folder does not change it."""
        return fingerprint(self.manifest())

    def read(self, number: int, records: Iterable[int]) -> list[bytes]:
        """Records of a shard. After a fault that may pass, the next try opens the shard again."""
        try:
            return self.reader(number).read(records)
        except OSError:
            if number in self._readers:
                self._readers.pop(number).close()
            raise

    def reader(self, number: int) -> shard_format.ShardReader:
        """A shard, open; if too many are open, the one that was used longest ago is closed."""
        if number not in self._readers:
            if len(self._readers) >= MAX_OPEN:
                self._readers.popitem(last=False)[1].close()
            shard = self.shards[number]
            path = os.path.join(self.path, shard['name'])
            self._readers[number] = shard_format.ShardReader(path, shard['records'])
        self._readers.move_to_end(number)
        return self._readers[number]


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Frames of one video in a shard: `index` among the sequences of shard number `shard`."""

    source: ShardSource
    shard: int
    index: int

    @property
    def name(self) -> str:
        """The shard's path and the place in it; the video's own name is in the shard, see `describe`."""
        return f'{os.path.join(self.source.path, self.source.shards[self.shard]["name"])}#{self.index}'

    def describe(self) -> dict[str, Any]:
        """{name, start_s, frames, height, width}: what it was made from, as the shard says."""
        shard = self.source.shards[self.shard]
        sequences = shard_format.sequences_of(self.source.reader(self.shard), shard['records'], len(shard['frames']))
        return sequences[self.index]

    @contextlib.contextmanager
    def open(self, timeout_s: float) -> Iterator[Self]:
        """Itself; reading a few records is not worth a time limit."""
        yield self

    def count(self, fps: float) -> int:
        """Ticks of fps that it holds."""
        return count_at(int(self.source.frames[self.shard][self.index]), fps, self.source.fps)

    def pictures(self, ticks: Numbers[int], fps: float) -> LazyFrames:
        """LazyFrames of the frames nearest to ticks (integers, ascending); only their records are read."""
        source, group = self.source, self.source.group
        wanted = [divmod(frame_at(int(tick), fps, source.fps), group) for tick in ticks]
        numbers = sorted({number for number, _ in wanted})
        first = int(np.sum(shard_manifest.num_groups(source.frames[self.shard][: self.index], group)))
        records = source.read(self.shard, [first + number for number in numbers])
        groups = dict(zip(numbers, records, strict=True))
        return group_pictures(self.name, groups, wanted, source.codec)

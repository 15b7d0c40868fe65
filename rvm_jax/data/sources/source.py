"""What a source of videos is, for type checkers and for whoever adds one.

To add a source, write a class like `Source` into a file of this folder and name it in `SOURCES` of `open_data.py`, or
name it MODULE:CLASS in a config, see docs/plugins.md. It travels to worker processes, so it must be picklable, and open
files only when they are asked for.
"""

import contextlib
from collections.abc import Sequence
from typing import Protocol

from rvm_jax.data.video.lazy_frames import LazyFrames


class Video(Protocol):
    """An open video. Its frames are counted at the rate that the caller wants: tick k is shown at k / fps seconds."""

    def count(self, fps: float) -> int:
        """Ticks of fps that it holds."""
        ...

    def pictures(self, ticks: Sequence[int], fps: float) -> LazyFrames:
        """The frames at ticks (ascending). DataError if they cannot be used, OSError if that may pass."""
        ...


class Record(Protocol):
    """One video of a source that is not open yet."""

    @property
    def name(self) -> str:
        """What messages call it, such as its path."""
        ...

    def open(self, timeout_s: float) -> contextlib.AbstractContextManager[Video]:
        """Open it for as long as a `with` block lasts; after timeout_s seconds without a frame it is given up."""
        ...


class Source(Protocol):
    """len(source) records, source[i] is the i-th; the same on every machine and in every process.

    `knows(path)`, which a plug-in does not need, says whether a path is one of this source's. The class is called with
    it and a split, 'train' or 'val', which counts where the data know splits. UserError if the path cannot be opened.
    """

    path: str
    fps: float | None  # frames per second that are stored, None where each video has its own

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...

    def manifest(self) -> list[list]:
        """[[name, bytes, checksum], ...]: what changes when the data change, see `dataset_manifest.py`."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of the manifest."""
        ...

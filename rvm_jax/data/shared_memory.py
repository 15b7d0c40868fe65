"""Frames on their way from worker processes to the training process: shared memory that is used again and again.

A new segment of shared memory for each array, as Grain makes them, costs many times the copy itself, because the system
clears and maps every page again. Here each worker has a few slots of one clip. Only the worker fills a slot and marks
it FULL; only the training process marks it FREE, once it has copied the clip into a batch. Each mark is one byte with
one writer at a time, so no locks are needed. What goes through Grain's queue is the number of the slot.
"""

import functools
import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rvm_jax.data import workers
from rvm_jax.errors import UserError

FREE, FULL = 0, 1
PAGE = 4096  # bytes
WAIT_S = 0.001  # until a worker looks again for a slot that has become free

# In a worker: the buffer, and the range of slots that are its own; set once, when the worker starts.
_of_this_worker: 'tuple[SharedFrameBuffer, range] | None' = None


class SharedFrameBuffer:
    """`count` slots of one clip each: (frames, size, size, 3) uint8. New ones, or those at another process's `place`.

    They are in a file without a name. The system frees it when the last process that has it open ends, even by a kill.
    UserError if the machine does not have enough shared memory.
    """

    def __init__(self, count: int, frames: int, size: int, place: str | None = None):
        self._shape = count, frames, size
        marks_bytes = _marks_bytes(count)
        num_bytes = slots_bytes(count, frames, size)
        self._file = _make_file(num_bytes) if place is None else open(place, 'r+b')
        self._memory = mmap.mmap(self._file.fileno(), num_bytes)
        self._marks = np.ndarray(count, np.uint8, self._memory)
        self._ends = np.ndarray(1, np.bool_, self._memory, count)  # nobody waits for clips any more
        self._frames = np.ndarray((count, frames, size, size, 3), np.uint8, self._memory, marks_bytes)
        if place is None:
            self.clear()

    @property
    def place(self) -> str:
        """The path at which other processes open the memory as long as this one lives."""
        return f'/proc/{os.getpid()}/fd/{self._file.fileno()}'

    def clear(self) -> None:
        """Free all slots, also those that workers had filled before they ended."""
        self._marks[:], self._ends[:] = FREE, False

    def give_up(self) -> None:
        """Stop workers that wait for a free slot from waiting, so that they can end."""
        self._ends[:] = True

    def worker_init(self) -> Callable[[int, int], None]:
        """The function for Grain that sets up a worker: worker i of n has the i-th n-th of the slots."""
        return functools.partial(_start_worker, self.place, self._shape)

    def put(self, frames_THWC: np.ndarray, mine: range) -> int:
        """Copy a clip into a free one of these slots (a range), as soon as there is one. Returns its number.

        After give_up, -1 instead of waiting.
        """
        while not (free := np.flatnonzero(self._marks[mine.start : mine.stop] == FREE)).size:
            if self._ends[0]:
                return -1
            time.sleep(WAIT_S)
        slot = mine.start + int(free[0])
        self._frames[slot] = frames_THWC
        self._marks[slot] = FULL
        return slot

    def collect(self, clips: Sequence[dict], stack: Callable[[list[dict]], Any]) -> Any:
        """stack(clips), with the frames of each taken from its slot, which is free afterwards."""
        filled = [clip for clip in clips if 'slot' in clip]
        batch = stack(
            [{**clip, 'frames_THWC': self._frames[clip['slot']]} if 'slot' in clip else clip for clip in clips]
        )
        self._marks[[clip['slot'] for clip in filled]] = FREE
        return batch

    def close(self) -> None:
        """Free the memory."""
        del self._marks, self._ends, self._frames  # a later access to them would crash the process
        self._memory.close()
        self._file.close()


def slots_bytes(count: int, frames: int, size: int) -> int:
    """Shared memory that so many SharedFrameBuffer take."""
    return _marks_bytes(count) + count * frames * size * size * 3


def _marks_bytes(count):
    return math.ceil((count + 1) / PAGE) * PAGE


def _make_file(num_bytes):
    workers.check_shared_memory(num_bytes)
    is_there = os.path.isdir(workers.SHARED_MEMORY)
    file = tempfile.TemporaryFile(dir=workers.SHARED_MEMORY if is_there else None)
    try:
        # Take the memory now: where it runs out at the first access, the system ends the process with SIGBUS.
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        file.close()
        fix = 'enlarge it (docker run --shm-size=...), or start fewer processes on this host'
        raise UserError(workers.SHARED_MEMORY, f'filled up at the start ({error.strerror})', fix) from error
    return file


def _start_worker(place, shape, index, num_workers):
    global _of_this_worker
    workers.start(index, num_workers)
    count, frames, size = shape
    each = count // num_workers
    _of_this_worker = SharedFrameBuffer(count, frames, size, place), range(index * each, (index + 1) * each)


def share_frames(clip: dict[str, Any]) -> dict[str, Any]:
    """In a worker: a clip with its frames in one of the worker's slots; one that holds only failures stays as it is."""
    if 'frames_THWC' not in clip or _of_this_worker is None:
        return clip
    slots, mine = _of_this_worker
    slot = slots.put(clip['frames_THWC'], mine)
    return {name: value for name, value in clip.items() if name != 'frames_THWC'} | {'slot': slot}

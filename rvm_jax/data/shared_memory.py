"""Frames on their way from worker processes to the training process: shared memory that is used over and over.

A fresh segment of shared memory for each array, as Grain makes them, costs many times the copy itself, because the
system clears and maps every page anew. Here each worker has a few slots of one clip. It alone fills and marks them, the
training process alone frees them, once it has copied the clip into a batch; so there are no locks. What goes through
Grain's queue is the number of the slot.
"""

import functools
import math
import mmap
import os
import tempfile
import time

import numpy as np

from rvm_jax.data import workers
from rvm_jax.errors import UserError

FREE, FULL = 0, 1
PAGE = 4096  # bytes
WAIT_S = 0.001  # until a worker looks again for a slot that has become free

_of_this_worker = None  # SharedFrameBuffer and the range of those that are this process's own; set once, when it starts


class SharedFrameBuffer:
    """`count` slots of one clip each: (frames, size, size, 3) uint8. Made anew, or those at another process's `place`.

    They lie in a file without a name, which is gone when the last process that has it open is, however that ends.
    UserError if the machine has not enough shared memory.
    """

    def __init__(self, count, frames, size, place=None):
        self._how = count, frames, size
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
    def place(self):
        """Where other processes find the memory as long as this one lives."""
        return f'/proc/{os.getpid()}/fd/{self._file.fileno()}'

    def clear(self):
        """All are free, whatever workers that are no more had in them."""
        self._marks[:], self._ends[:] = FREE, False

    def give_up(self):
        """Let workers that wait for a free slot go on, so that they can end."""
        self._ends[:] = True

    def worker_init(self):
        """The function for Grain that sets up a worker: worker i of n has the i-th n-th of the slots."""
        return functools.partial(_start_worker, self.place, self._how)

    def put(self, frames_THWC, mine):
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

    def collect(self, clips, stack):
        """stack(clips), with the frames of each from its slot, which is free afterwards."""
        filled = [clip for clip in clips if 'slot' in clip]
        batch = stack(
            [{**clip, 'frames_THWC': self._frames[clip['slot']]} if 'slot' in clip else clip for clip in clips]
        )
        self._marks[[clip['slot'] for clip in filled]] = FREE
        return batch

    def close(self):
        """Give the memory back."""
        del self._marks, self._ends, self._frames  # touching them would be a crash
        self._memory.close()
        self._file.close()


def slots_bytes(count, frames, size):
    """Shared memory that so many SharedFrameBuffer take."""
    return _marks_bytes(count) + count * frames * size * size * 3


def _marks_bytes(count):
    return math.ceil((count + 1) / PAGE) * PAGE


def _make_file(num_bytes):
    workers.check_shared_memory(num_bytes)
    is_there = os.path.isdir(workers.SHARED_MEMORY)
    file = tempfile.TemporaryFile(dir=workers.SHARED_MEMORY if is_there else None)
    try:
        os.posix_fallocate(file.fileno(), 0, num_bytes)  # now, not at the first touch, where it would be a crash
    except OSError as error:
        file.close()
        fix = 'enlarge it (docker run --shm-size=...), or start fewer processes on this host'
        raise UserError(workers.SHARED_MEMORY, f'filled up at the start ({error.strerror})', fix) from error
    return file


def _start_worker(place, how, index, count):
    global _of_this_worker
    workers.start(index, count)
    each = how[0] // count
    _of_this_worker = SharedFrameBuffer(*how, place=place), range(index * each, (index + 1) * each)


def share_frames(clip):
    """In a worker: a clip with its frames in one of the worker's slots; nothing but failures stays as it is."""
    if 'frames_THWC' not in clip:
        return clip
    slots, mine = _of_this_worker
    slot = slots.put(clip['frames_THWC'], mine)
    return {name: value for name, value in clip.items() if name != 'frames_THWC'} | {'slot': slot}

"""Worker processes of the loader: how they start, what they note, how one that hangs or dies is noticed.

Before it reads a file, a worker writes a note: the record and path. A decoder may hang in C code, where no exception
reaches it. So a timer that does not need the interpreter ends the process some seconds after the clip's time limit, and
writes a traceback into the note: the loader then knows which file to give up. (Grain, which runs the workers, imports
JAX where it is installed; nothing here or there starts one of its devices.)
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence

from rvm_jax import signals
from rvm_jax.errors import UserError, printable

GRACE_S = 5.0  # from the time limit of a clip, which decoding checks itself, to the end of its process
PATIENCE_S = 5.0  # for workers to end
SHARED_MEMORY = '/dev/shm'
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h of the GNU C library numbers them
HINTS: dict[int, str] = {
    signal.SIGKILL: 'SIGKILL, as where memory runs out',
    signal.SIGBUS: f'SIGBUS, as where {SHARED_MEMORY} is full',
    signal.SIGSEGV: 'SIGSEGV, a crash in the decoder',
}


@dataclasses.dataclass(frozen=True)
class Note:
    """What the worker of this process id was reading when it ended, and whether the timer ended it."""

    pid: int
    record: int
    path: str
    is_timeout: bool


def start(index: int, count: int) -> None:
    """Set up a new worker process (called by Grain with its number and how many there are)."""
    import cv2

    # These reach the whole process group; the training process decides when its workers end.
    for number in signals.NAMES:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, instead of returning frames to the system after each clip.

    Getting it back costs as much as decoding a frame of JPEG, because the system clears and maps every page.
    """
    with contextlib.suppress(AttributeError):  # another C library than GNU's
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 128 * 2**20)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)


def end_with_parent() -> None:
    """End this process when its parent ends, however that ends."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)  # not sys.exit, which ends only this thread


@contextlib.contextmanager
def note(folder: str | None, record: int, path: str, timeout_s: float) -> Iterator[None]:
    """Note what is being read for as long as the block lasts, with the timer running; folder None: do nothing."""
    if folder is None:
        yield
        return
    line = json.dumps([record, path]).encode() + b'\n'
    file = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_CREAT)
    try:
        os.write(file, line)
        os.ftruncate(file, len(line))  # after the write: a process may die at any time, and must leave a note
        faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True, file=file)
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(file)


def notes_of_the_dead(folder: str) -> list[Note]:
    """Notes of workers that are no longer alive."""
    alive = {str(process.pid) for process in multiprocessing.active_children()}
    notes = []
    for pid in sorted(set(os.listdir(folder)) - alive):
        with open(os.path.join(folder, pid)) as file:
            lines = file.read().splitlines()
        if lines:  # else it died before the note was written
            is_timeout = any(line.startswith('Timeout') for line in lines[1:])
            record, path = json.loads(lines[0])
            notes.append(Note(int(pid), record, path, is_timeout))
        os.remove(os.path.join(folder, pid))
    return notes


def clear_notes(folder: str) -> None:
    """Remove the notes of workers that have ended as they should."""
    for pid in os.listdir(folder):
        os.remove(os.path.join(folder, pid))


def describe_death(message: str, notes: Sequence[Note]) -> str:
    """One line on workers that died, from Grain's message and their notes."""
    code = re.search(r'exit code (-?\d+)', message)
    number = int(code[1]) if code else 0
    how = HINTS.get(-number, f'signal {-number}') if number < 0 else f'exit code {number}'
    who = ', '.join(f'process {note.pid} at {printable(note.path)}' for note in notes) or 'before it read a file'
    return f'a loader worker died ({how}): {who}'


def resident_bytes(folder: str) -> dict[int, int]:
    """{process id: bytes of memory in use, shared ones included} of the workers that are alive."""
    import psutil

    found = {}
    for pid in map(int, os.listdir(folder)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[pid] = psutil.Process(pid).memory_info().rss
    return found


@contextlib.contextmanager
def patience(folder: str) -> Iterator[None]:
    """Within this block workers have some seconds to end by themselves, then they are killed: one may hang."""
    timer = threading.Timer(PATIENCE_S, _kill, [folder])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill(folder):
    mine = set(os.listdir(folder))
    for process in multiprocessing.active_children():
        if str(process.pid) in mine:
            process.kill()


def check_shared_memory(needed_bytes: int) -> None:
    """UserError if the memory through which workers pass frames is smaller than needed, as in plain containers."""
    if not os.path.isdir(SHARED_MEMORY):
        return
    free = os.statvfs(SHARED_MEMORY)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < needed_bytes:
        raise UserError(
            f'{SHARED_MEMORY} with {free_bytes / 2**20:.0f} MB free',
            f'the loader needs {needed_bytes / 2**20:.0f} MB of shared memory',
            'enlarge it (docker run --shm-size=...), or lower batch_size, or set --config.data.num_workers=0',
        )


def allow_without_absl_app() -> None:
    """Let Grain start processes in a program that is not run by absl.app, whose flags nobody parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

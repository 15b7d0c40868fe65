"""Worker processes of the loader: how they start, what they note, how one that hangs or dies is noticed.

Before it reads a file, a worker writes a note: the record and path. A decoder can spin in C code, where no exception
reaches it, so a timer that needs no interpreter ends the process some seconds after the clip's time limit and leaves
its mark in the note. The loader then knows which file to give up. (Grain, which runs the workers, imports JAX where it
is installed; nothing here or there starts one of its devices.)
"""

import contextlib
import dataclasses
import faulthandler
import json
import multiprocessing
import os
import signal
import threading

from rvm_jax.errors import UserError

GRACE_S = 5.0  # from the time limit of a clip, which decoding checks itself, to the end of its process
SHARED_MEMORY = '/dev/shm'


@dataclasses.dataclass(frozen=True)
class Note:
    """What a worker that is no more was reading, and whether the timer ended it."""

    record: int
    path: str
    is_timeout: bool


def start(index, count):
    """Set up a fresh worker process (called by Grain with its number and how many there are)."""
    import cv2

    # Ctrl-C and SIGTERM reach the whole process group; the training process decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def end_with_parent():
    """End this process when its parent ends, however that ends."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def note(folder, record, path, timeout_s):
    """Note what is being read for as long as the block lasts, with the timer running; folder None: do nothing."""
    if folder is None:
        yield
        return
    with open(os.path.join(folder, str(os.getpid())), 'w') as file:
        file.write(json.dumps([record, path]) + '\n')
        file.flush()
        faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def notes_of_the_dead(folder):
    """Notes of workers that are no longer alive."""
    alive = {str(process.pid) for process in multiprocessing.active_children()}
    notes = []
    for pid in sorted(set(os.listdir(folder)) - alive):
        with open(os.path.join(folder, pid)) as file:
            lines = file.read().splitlines()
        if lines:  # else it died before the note was written
            is_timeout = any(line.startswith('Timeout') for line in lines[1:])
            notes.append(Note(*json.loads(lines[0]), is_timeout=is_timeout))
        os.remove(os.path.join(folder, pid))
    return notes


def check_shared_memory(needed_bytes):
    """UserError if the memory through which workers hand over frames is smaller than needed, as in plain containers."""
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


def allow_without_absl_app():
    """Let Grain start processes in a program that is not run by absl.app, whose flags nobody parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

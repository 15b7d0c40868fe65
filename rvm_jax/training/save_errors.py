"""Saves that fail: one line for each, and the end of the run when there are too many in a row.

Orbax, and gcsfs for buckets, log one failure several times, as tracebacks; `quiet_orbax` leaves only our own line.
"""

import contextlib
import gc
import logging
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import files, gcs
from rvm_jax.terminal import say
from rvm_jax.training import checkpoint_files
from rvm_jax.training.checkpoint_files import step_path

MOST = 3  # saves in a row that may fail before the run stops
GRACE = 0.5  # seconds for the other writers of a failed save to end, before its folder is removed
# What is raised when a write fails; Orbax raises ValueError for a full disk.
ERRORS = (OSError, RuntimeError, ValueError, Unavailable)
PLACES = os.path.join('orbax', 'checkpoint'), os.path.join('gcsfs', '')


class SaveFailures:
    """Counts the saves into a folder of checkpoints that failed in a row; the first process of a run reports them."""

    def __init__(self, folder: str, is_first: bool):
        self._folder, self._is_first = folder, is_first
        self._count = 0
        self._error: BaseException | None = None
        self.errors: tuple[type[BaseException], ...]
        self.errors = (*ERRORS, *gcs.orbax_errors()) if files.is_remote(folder) else ERRORS

    def add(self, step: int, size: int, error: BaseException) -> None:
        """Clean up after a save of so many bytes that failed, and print a line about it."""
        self._count, self._error = self._count + 1, error
        time.sleep(GRACE)
        if self._is_first:
            with contextlib.suppress(OSError, Unavailable):  # a store that does not answer; the next start cleans up
                checkpoint_files.remove_unfinished(self._folder)
            room, count = f'needs about {megabytes(size)}{self._free()}', f'failure {self._count} of {MOST} in a row'
            say(f'checkpoint {step} not written: {reason(error)} ({room}); the next save tries again, {count}')

    def clear(self) -> None:
        """Start counting again: a save succeeded."""
        self._count, self._error = 0, None

    def check(self, step: int) -> None:
        """Raise UserError, or Unavailable for a bucket, if MOST saves in a row failed; step was the last of them."""
        if self._count >= MOST:
            self.give_up(step)

    def give_up(self, step: int) -> NoReturn:
        """Raise UserError, or Unavailable for a bucket: this step could not be saved."""
        if files.is_remote(self._folder):
            raise Unavailable(step_path(self._folder, step), reason(self._error)) from self._error
        newest = max(checkpoint_files.find_steps(self._folder), default='none')
        raise UserError(
            step_path(self._folder, step),
            f'could not be saved ({reason(self._error)})',
            f'make room or check the disk, then start again; newest good step: {newest}',
        ) from self._error

    def _free(self):
        try:
            free = files.free_bytes(self._folder)
        except OSError:  # the disk does not answer, which may be why the save failed
            return ', free space unknown'
        return f', {megabytes(free)} free' if free < math.inf else ''


def reason(error: BaseException | None) -> str:
    """A write error in a few words; tensorstore puts the system's error code into a long message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else (str(error).splitlines() or [type(error).__name__])[0][:200]


def megabytes(size: float) -> str:
    """A number of bytes as megabytes, 1,234.5 MB."""
    return f'{size / 1e6:,.1f} MB'


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Drop Orbax's log records, and the tracebacks of writes that end after their save was given up.

    asyncio logs the exception of such a write when its future is garbage collected, which can be much later.
    """
    loggers, before = [logging.getLogger(name) for name in ('absl', 'asyncio', 'gcsfs')], sys.unraisablehook

    def not_orbax(record):
        raised_in = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
        paths = record.pathname, *(frame.filename for frame in raised_in)
        return not any(place in path for place in PLACES for path in paths)

    def hook(unraisable):
        if str(unraisable.exc_value) != 'Event loop is closed':
            before(unraisable)

    for logger in loggers:
        logger.addFilter(not_orbax)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        gc.collect()  # late failures are logged when they are collected: now, while the filter is in place
        sys.unraisablehook = before
        for logger in loggers:
            logger.removeFilter(not_orbax)

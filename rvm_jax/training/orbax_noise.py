"""Orbax says the same failure several times, as tracebacks; we say it once, in a line of our own."""

import contextlib
import logging
import os
import sys

ORBAX = os.path.join('orbax', 'checkpoint')


@contextlib.contextmanager
def quiet_orbax():
    """Drop Orbax's log records, and the tracebacks of writes that finish after their save was given up."""
    logger, before = logging.getLogger('absl'), sys.unraisablehook

    def not_orbax(record):
        return ORBAX not in record.pathname

    def hook(unraisable):
        if str(unraisable.exc_value) != 'Event loop is closed':
            before(unraisable)

    logger.addFilter(not_orbax)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        logger.removeFilter(not_orbax)

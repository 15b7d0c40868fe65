"""Orbax says the same failure several times, as tracebacks; we say it once, in a line of our own."""

import contextlib
import logging
import os
import sys

ORBAX = os.path.join('orbax', 'checkpoint')


@contextlib.contextmanager
def quiet_orbax():
    """Drop Orbax's log records, and the tracebacks of writes that finish after their save was given up."""
    logger, before = logging.getLogger('absl'), sys.excepthook

    def not_orbax(record):
        return ORBAX not in record.pathname

    def hook(kind, error, trace):
        if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
            before(kind, error, trace)

    logger.addFilter(not_orbax)
    sys.excepthook = hook
    try:
        yield
    finally:
        sys.excepthook = before
        logger.removeFilter(not_orbax)

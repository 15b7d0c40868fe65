"""Orbax and its way to buckets say one failure several times, as tracebacks; we say it once, in a line of our own."""

import contextlib
import gc
import logging
import os
import sys
import traceback

PLACES = os.path.join('orbax', 'checkpoint'), os.path.join('gcsfs', '')


@contextlib.contextmanager
def quiet_orbax():
    """Drop Orbax's log records, and the tracebacks of writes that finish after their save was given up.

    asyncio logs such a write's exception when its future is collected, at a time of the collector's choosing.
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
        gc.collect()  # what failed late speaks when it is collected: now, and not when nobody listens for it any more
        sys.unraisablehook = before
        for logger in loggers:
            logger.removeFilter(not_orbax)

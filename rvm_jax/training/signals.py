"""Ends a run on SIGTERM or Ctrl-C at a step's end, so that it can be saved first."""

import contextlib
import os
import signal
import sys

from rvm_jax.errors import Interrupted, Stopped

NAMES = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}


class StopRequest:
    """Within this context the first SIGTERM or Ctrl-C only raises a flag; a further Ctrl-C ends the process at once.

    The loop keeps `step` at the step it is working on, asks `requested` after each step ('' or what came), saves, and
    raises `ended(step)`. Enter it in the main thread: Python delivers signals nowhere else.
    """

    def __init__(self):
        self.requested = ''
        self.step = 0

    def __enter__(self):
        self._before = {number: signal.signal(number, self._receive) for number in NAMES}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ended(self, step):
        """The exception to raise once the given step is saved."""
        error = Interrupted if self.requested == NAMES[signal.SIGINT] else Stopped
        return error(f'{self.requested}: saved at step {step}; the same command line goes on from there')

    def _receive(self, number, _frame):
        if self.requested and number == signal.SIGINT:
            _write('Ctrl-C again: stopping now; the same command line goes on from the last save')
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                    stream.flush()
            os._exit(Interrupted.exit_code)
        if not self.requested:
            self.requested = NAMES[number]
            _write(f'{self.requested}: finishing step {self.step}, saving')


def _write(message):
    """Straight to the descriptor: a print here may interrupt one that holds the same buffer."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{message}\n'.encode())

"""Ends a run on SIGTERM, SIGHUP (a closed terminal) or Ctrl-C at a step's end, so that it can be saved first."""

import contextlib
import os
import signal
import sys

from rvm_jax.errors import Interrupted, Stopped

NAMES = {signal.SIGHUP: 'SIGHUP', signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}
KINDS = ('', *NAMES.values())  # the later one counts where processes got different ones


class StopRequest:
    """Within this context the first of these signals only raises a flag; a further Ctrl-C ends the process at once.

    SIGHUP stays ignored where it is (nohup).

    The loop keeps `current` at the work that it will finish first, tells the kinds of all processes after each step,
    asks `agreed` ('' or what came to any of them), saves, and raises `ended(what is saved)`. Work of one process alone
    asks `check(what is saved)` now and then. Enter it in the main thread: Python delivers signals nowhere else.
    """

    def __init__(self):
        self.requested = self.agreed = ''  # what came to this process; what all of them know and act on
        self._where = ''
        self.current = 'step 0, saving'

    def __enter__(self):
        self._before = {number: signal.signal(number, self._receive) for number in heeded()}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def kind(self):
        """What came to this process, as a number that others can be told."""
        return KINDS.index(self.requested)

    def agree(self, kinds):
        """Take note of what has come to each process."""
        self.agreed = KINDS[max(kinds)]
        if len(kinds) > 1 and self.agreed:
            self._where = f' at process {list(kinds).index(max(kinds))}'

    def ended(self, saved):
        """The exception to raise once things are saved; saved says what, such as 'saved at step 9'."""
        error = Interrupted if self.agreed == NAMES[signal.SIGINT] else Stopped
        return error(f'{self.agreed}{self._where}: {saved}; the same command line resumes from there')

    def check(self, saved):
        """In a run of one process: raise `ended` if a signal has come."""
        if self.requested:
            self.agree([self.kind])
            raise self.ended(saved)

    def _receive(self, number, _frame):
        if self.requested and number == signal.SIGINT:
            _write('Ctrl-C again: stopping now; the same command line resumes from the last save')
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                    stream.flush()
            os._exit(Interrupted.exit_code)
        if not self.requested:
            self.requested = NAMES[number]
            _write(f'{self.requested}: finishing {self.current}')


def heeded():
    """The signals that end a run here: all that have a name, but SIGHUP where it is ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in NAMES if not (number == signal.SIGHUP and is_ignored)]


def _write(message):
    """Straight to the descriptor: a print here may interrupt one that holds the same buffer."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{message}\n'.encode())

"""Ends a run on SIGTERM, SIGHUP (a closed terminal) or Ctrl-C at a step's end, so that it can be saved first."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Self

from rvm_jax.errors import Interrupted, Stopped

NAMES = {signal.SIGHUP: 'SIGHUP', signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}
KINDS = ('', *NAMES.values())  # the later one counts where processes got different ones


class StopRequest:
    """Within this context the first of these signals only sets a flag; a further Ctrl-C ends the process at once.

    SIGHUP stays ignored where it is (nohup).

    The loop keeps `current` at the work that it will finish first, tells the kinds of all processes after each step,
    asks `agreed` ('' or what came to any of them), saves, and raises `ended(what is saved)`. Work of one process alone
    calls `check(what is saved)` now and then. Python delivers signals to the main thread alone: in another one, which
    a program may start for training, this context leaves them as they are.

    Work that waits in somebody else's code and cannot look at a flag takes `interrupts=True`: then the first signal
    also raises KeyboardInterrupt, and the handler of that calls `check`.
    """

    def __init__(self, interrupts: bool = False):
        self.requested = self.agreed = ''  # what came to this process; what all of them know and act on
        self.current = (
            '' if interrupts else 'the first step, then saving and stopping'
        )  # '' where nothing is finished first
        self._interrupts, self._where = interrupts, ''

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in _heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def kind(self) -> int:
        """What came to this process, as a number that can be sent to others."""
        return KINDS.index(self.requested)

    def agree(self, kinds: Sequence[int]) -> None:
        """Note what came to each process."""
        self.agreed = KINDS[max(kinds)]
        if len(kinds) > 1 and self.agreed:
            self._where = f' at process {list(kinds).index(max(kinds))}'

    def ended(self, saved: str) -> Stopped:
        """The exception to raise once things are saved; saved says what, such as 'saved at step 9'."""
        error = Interrupted if self.agreed == NAMES[signal.SIGINT] else Stopped
        return error(f'{self.agreed}{self._where}: {saved}; the same command line resumes from there')

    def check(self, saved: str) -> None:
        """In a run of one process: raise `ended` if a signal has come."""
        if self.requested:
            self.agree([self.kind])
            raise self.ended(saved)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            _write('Ctrl-C again: stopping now; the same command line resumes from the last save')
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                    stream.flush()
            os._exit(Interrupted.exit_code)
        if not self.requested:
            self.requested = NAMES[signal.Signals(number)]
            _write(f'{self.requested}: ' + (f'finishing {self.current}' if self.current else 'stopping'))
            if self._interrupts:
                raise KeyboardInterrupt


def _heeded() -> list[signal.Signals]:
    """The signals that end a run here: all that have a name, except SIGHUP where it is ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in NAMES if not (number == signal.SIGHUP and is_ignored)]


def _write(message: str) -> None:
    """Straight to the descriptor: a print here may interrupt one that holds the same buffer."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{message}\n'.encode())

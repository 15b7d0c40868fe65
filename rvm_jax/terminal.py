"""What every command prints with: notices on standard error, and tables of two columns."""

import os
import sys

from rvm_jax.errors import printable


def say(message, stream=None):
    """Print one line to standard error (or stream); a stream that nobody reads any more is silenced.

    A run must outlive the terminal or pipe it was started from, so a closed one is replaced by the null device.
    """
    stream = sys.stderr if stream is None else stream
    try:
        print(message, file=stream, flush=True)
    except ValueError:  # the stream object was closed
        return
    except OSError:  # a pipe without a reader, or a terminal that is gone
        silence(stream)


def silence(stream):
    """Let everything that is written to a stream from now on go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Extras:
    """Work whose outcome is for people alone, such as pictures and plots: what fails there must not end a run."""

    def __init__(self, outcome='the run continues'):
        self._outcome, self._warned = outcome, set()

    def attempt(self, what, act, *args):
        """act(*args); an error, of any kind, costs one line for each `what`."""
        try:
            act(*args)
        except Exception as error:  # a library that draws may raise anything
            self.warn(what, error)

    def warn(self, what, error):
        """Say what was not written and why, once."""
        if what not in self._warned:
            self._warned.add(what)
            reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or str(error)
            reason = printable(str(reason).partition('\n')[0]) or type(error).__name__
            say(f'{what}: not written ({reason}); {self._outcome}, said once')


def table(rows, width=0):
    """[(what, text)] as aligned lines, the first column at least `width` characters wide; text comes from outside."""
    width = max(width, *(len(what) for what, _ in rows))
    return '\n'.join(f'{what:{width}}  {printable(text)}' for what, text in rows)

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


def table(rows, width=0):
    """[(what, text)] as aligned lines, the first column at least `width` characters wide; text comes from outside."""
    width = max(width, *(len(what) for what, _ in rows))
    return '\n'.join(f'{what:{width}}  {printable(text)}' for what, text in rows)

"""What every command prints with: notices on standard error, and tables, for a terminal or in Markdown.

Notices go through the logger of this package, which has one handler and one plain format. So `say`, and what a module
tells `logging.getLogger(__name__)`, look alike, and a program that imports rvm_jax may replace the handler.
"""

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rvm_jax.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

PACKAGE = 'rvm_jax'  # the logger above those of all modules
LINE_EVERY = 60.0  # seconds between lines about progress where no terminal shows bars
WIDEST = 100_000  # characters of a line of a table: it is never wrapped, because what is copied must stay whole


class TerminalHandler(logging.Handler):
    """Prints the message of each record as a line on whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        write_line(self.format(record), sys.stderr)


def log_to_terminal(name: str = PACKAGE) -> logging.Logger:
    """The logger of this name, with a TerminalHandler unless it has a handler already.

    That of this package also tells what is only information. With our handler it passes nothing on: libraries set up
    the root logger as they like, and each line would appear twice. A program that wants the lines elsewhere gives the
    logger a handler of its own first.
    """
    logger = logging.getLogger(name)
    is_ours = not logger.handlers
    if is_ours:
        logger.addHandler(TerminalHandler())
    if name == PACKAGE:
        logger.disabled = False  # logging.config.dictConfig disables every logger that it does not name
        logger.propagate = logger.propagate and not is_ours
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return logger


def say(message: object) -> None:
    """Print one notice on standard error."""
    log_to_terminal().info('%s', message)


def write_line(message: object, stream: TextIO) -> None:
    """Print one line to a stream; a stream that nobody reads any more is silenced.

    A run must outlive the terminal or pipe it was started from, so a closed one is replaced by the null device.
    """
    try:
        print(message, file=stream, flush=True)
    except ValueError:  # the stream object was closed
        return
    except OSError:  # a pipe without a reader, or a terminal that is gone
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let everything that is written to a stream from now on go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def progress_bars(*columns: 'ProgressColumn | str', transient: bool = False) -> 'Progress':
    """Bars of work that takes a while, on a terminal; elsewhere a line on standard error every LINE_EVERY seconds.

    columns: those of rich, by default what, a bar, done of all and the time left. transient: bars vanish at the end.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    class Lines(Progress):
        """Bars for a log file: what is done is told now and then, so short work tells nothing."""

        told = time.monotonic()

        def update(self, task_id, **changes):
            super().update(task_id, **changes)
            self._tell(task_id)

        def advance(self, task_id, advance=1):
            super().advance(task_id, advance)
            self._tell(task_id)

        def _tell(self, task_id):
            task = self._tasks[task_id]
            if time.monotonic() - self.told > LINE_EVERY and not task.finished:
                self.told = time.monotonic()
                total = '' if task.total is None else f' of {task.total:,.0f}'
                say(printable(f'{task.description}: {task.completed:,.0f}{total}'))

    console = Console(soft_wrap=True)
    kind = Progress if console.is_terminal else Lines
    chosen = columns or (*Progress.get_default_columns(), MofNCompleteColumn())
    return kind(*chosen, console=console, transient=transient, disable=not console.is_terminal)


class Extras:
    """Work whose outcome is for people alone, such as pictures and plots: what fails there must not end a run."""

    def __init__(self, outcome: str = 'the run continues'):
        self._outcome = outcome
        self._warned: set[str] = set()

    def attempt(self, what: str, act: Callable, *args: Any) -> None:
        """act(*args); an error, of any kind, costs one line for each `what`."""
        try:
            act(*args)
        except Exception as error:  # a library that draws may raise anything
            self.warn(what, error)

    def warn(self, what: str, error: Exception) -> None:
        """Say what was not written and why, once."""
        if what not in self._warned:
            self._warned.add(what)
            reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or str(error)
            reason = printable(str(reason).partition('\n')[0]) or type(error).__name__
            say(f'{what}: not written ({reason}); {self._outcome}, this is printed once')


def counted(number: int, noun: str) -> str:
    """'1 video', '1,200 videos': a number and a noun that takes an s."""
    return f'{number:,} {noun}' + ('' if number == 1 else 's')


def duration(seconds: float) -> str:
    """'12 seconds', '3.5 minutes', '1,200 hours'."""
    if seconds < 60:
        return f'{seconds:.3g} seconds'
    return f'{seconds / 60:.3g} minutes' if seconds < 3600 else f'{seconds / 3600:,.3g} hours'


def table(rows: Iterable[tuple[str, object]], width: int = 0) -> str:
    """[(what, text)] as aligned lines, the first column at least `width` characters wide; text comes from outside."""
    return '\n'.join(columns([(what, printable(text)) for what, text in rows], left=2, width=width))


def columns(rows: Iterable[Sequence[str]], left: int = 1, width: int = 0) -> list[str]:
    """Rows of cells as lines with aligned columns: the first `left` of them to the left, numbers to the right.

    The first column is at least `width` characters wide.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    grid = Table.grid(padding=(0, 2))
    for place in range(max(map(len, rows), default=0)):
        grid.add_column(justify='left' if place < left else 'right', no_wrap=True, min_width=0 if place else width)
    for row in rows:
        grid.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=WIDEST, color_system=None, force_terminal=False).print(grid)
    return [line.rstrip() for line in text.getvalue().split('\n')[:-1]]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A table in Markdown, with a line break at its end; the last `right` columns are aligned to the right."""
    rule = ['---'] * (len(header) - right) + ['---:'] * right
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in (header, rule, *rows))

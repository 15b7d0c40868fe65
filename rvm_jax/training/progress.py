"""What a person sees while a run trains: a bar with the numbers of the latest step, or lines; held-out losses."""

import collections
import sys
import time
from collections.abc import Mapping
from typing import Any, Self, TextIO

from rvm_jax.terminal import counted, silence, write_line

WINDOW = 500  # updates that the pace is averaged over
HELD_OUT = {'eval_loss': 'loss', 'eval_copy_last': 'copy the last frame', 'eval_mean_color': 'mean color'}
LONGEST = 999 * 3600  # seconds; a longer time left means nothing


def format_line(step: int, total: int, scalars: Mapping[str, Any], seconds_left: float | None = None) -> str:
    """One line about a step. mfu and data_wait are fractions; names that scalars do not have are left out."""
    parts = [f'step {step}/{total}']
    for name, template in (
        ('loss', 'loss {:.4g}'),
        ('learning_rate', 'lr {:.1e}'),
        ('grad_norm', '|g| {:.2g}'),
        ('clips_per_second', '{:.1f} clips/s'),
        ('mfu', 'MFU {:.0%}'),
        ('data_wait', 'data wait {:.0%}'),
    ):
        if scalars.get(name) is not None:
            parts.append(template.format(float(scalars[name])).replace('%', ' %'))
    for name, unit in (('skipped_videos', 'video'), ('skipped_steps', 'step')):
        if count := int(scalars.get(name) or 0):
            parts.append(f'skipped {counted(count, unit)}')
    if seconds_left is not None:
        parts.append(f'left {format_seconds(seconds_left)}')
    return '  '.join(parts)


def format_held_out(step: int, total: int, held_out: Mapping[str, float]) -> str:
    """One line about an evaluation: the loss on held-out clips, and what the two trivial predictors have there."""
    found = [f'{text} {held_out[name]:.4g}' for name, text in HELD_OUT.items() if name in held_out]
    return f'step {step}/{total}  held-out clips: {", ".join(found)}'


def format_seconds(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any: 12:34, 1:02:03."""
    minutes, seconds = divmod(round(min(max(seconds, 0), LONGEST)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


class _Terminal:
    """A stream to a terminal for rich, which would end the run when the terminal is closed."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write text; if nobody reads it any more, drop this and all that follows."""
        try:
            self._stream.write(text)
        except OSError:
            silence(self._stream)
        return len(text)

    def flush(self):
        """Flush, or drop all that follows."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)


def _seconds_column():
    """How long the run has waited for what the bar names; nothing while steps are done."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Seconds(ProgressColumn):
        def render(self, task):
            since = task.fields.get('since')
            return Text('' if since is None else format_seconds(time.monotonic() - since))

    return Seconds()


class Progress:
    """A live bar on a terminal; elsewhere a plain line at the first and each logged step; nothing if it is not shown.

    Before the first step it names what is waited for, on a terminal with the seconds. The pace is measured from the end
    of the first step on, so that the compilation is not part of it, and with the monotonic clock, so that a change of
    the wall clock does not matter.
    """

    def __init__(self, total: int, stream: TextIO | None = None, is_shown: bool = True):
        self._total, self._is_shown = total, is_shown
        self._stream: Any = sys.stdout if stream is None else stream
        self._seen: collections.deque[tuple[float, int]] = collections.deque(maxlen=WINDOW)
        self._scalars: Mapping[str, Any] = {}  # of the latest logged step
        self._bar: Any = None  # the one of rich, which is imported on a terminal only
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._is_shown and self._stream is not None and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = BarColumn(bar_width=20), TextColumn('{task.description}', markup=False), _seconds_column()
            console = Console(file=_Terminal(self._stream))  # type: ignore[arg-type]  # it has what rich calls
            self._bar = Bar(*columns, console=console, redirect_stderr=sys.stderr.isatty())  # not from `2> log`
            self._task = self._bar.add_task('starting', total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def waiting(self, what: str) -> None:
        """Name what the next step waits for: the first batch, compiling, an evaluation.

        Without a terminal only before the first step, where it may take minutes.
        """
        if self._bar is not None:
            self._bar.update(self._task, description=what, since=time.monotonic())
        elif self._is_shown and not self._seen:
            write_line(what, self._stream)

    def update(self, step: int, scalars: Mapping[str, Any] | None = None) -> None:
        """Show that a step is done; scalars are given at the first step and at logged ones."""
        if not self._is_shown:
            return
        self._seen.append((time.monotonic(), step))
        self._scalars = self._scalars if scalars is None else scalars
        text = format_line(step, self._total, self._scalars, self.seconds_left())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text, since=None)
        elif scalars is not None:
            write_line(text, self._stream)

    def held_out(self, step: int, held_out: Mapping[str, float]) -> None:
        """Print the losses of an evaluation as a line that stays."""
        text = format_held_out(step, self._total, held_out)
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self._is_shown:
            write_line(text, self._stream)

    def seconds_left(self) -> float | None:
        """Seconds until the last step at the current pace; None before the second update."""
        (began, first), (now, step) = self._seen[0], self._seen[-1]
        if step <= first:
            return None
        return max(0.0, (now - began) / (step - first) * (self._total - step))

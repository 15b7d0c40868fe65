"""What a person sees while a run trains: one line or bar with the numbers of the latest step."""

import collections
import sys
import time

from rvm_jax.terminal import silence, write_line

WINDOW = 500  # updates that the pace is averaged over
LONGEST = 999 * 3600  # seconds; a time left beyond it says nothing


def format_line(step, total, scalars, seconds_left=None):
    """One line about a step. mfu and data_wait are fractions; what is absent from scalars is left out."""
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
            parts.append(f'skipped {count} {unit}{"s" * (count > 1)}')
    if seconds_left is not None:
        parts.append(f'left {format_seconds(seconds_left)}')
    return '  '.join(parts)


def format_seconds(seconds):
    """Minutes and seconds, with hours where there are any: 12:34, 1:02:03."""
    minutes, seconds = divmod(round(min(max(seconds, 0), LONGEST)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


class _Terminal:
    """A stream to a terminal for rich, which would let the run end when the terminal goes."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """All of it is written, or nobody sees it any more."""
        try:
            self._stream.write(text)
        except OSError:
            silence(self._stream)
        return len(text)

    def flush(self):
        """As above."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)


class Progress:
    """A live bar on a terminal; elsewhere a plain line at each logged step.

    The pace is measured on the monotonic clock from the end of the first step on, so neither a clock that jumps nor
    the compilation spoils the time left.
    """

    def __init__(self, total, stream=None):
        self._total, self._stream = total, sys.stdout if stream is None else stream
        self._seen = collections.deque(maxlen=WINDOW)
        self._bar = self._task = None

    def __enter__(self):
        if self._stream is not None and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = BarColumn(bar_width=20), TextColumn('{task.description}', markup=False)
            console = Console(file=_Terminal(self._stream))
            self._bar = Bar(*columns, console=console, redirect_stderr=sys.stderr.isatty())  # not from `2> log`
            self._task = self._bar.add_task('compiling', total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()

    def update(self, step, scalars=None):
        """Tell that a step is done; scalars are given at logged steps only."""
        self._seen.append((time.monotonic(), step))
        text = None if scalars is None else format_line(step, self._total, scalars, self.seconds_left())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, **({} if text is None else {'description': text}))
        elif text is not None:
            write_line(text, self._stream)

    def seconds_left(self):
        """Seconds until the last step at the present pace, or None before there is a pace."""
        (began, first), (now, step) = self._seen[0], self._seen[-1]
        if step <= first:
            return None
        return max(0.0, (now - began) / (step - first) * (self._total - step))

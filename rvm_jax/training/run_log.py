"""What a run logs about its steps: losses, pace, time spent waiting for data, skipped videos and steps."""

import time
from collections.abc import Mapping
from typing import Any, Self

import ml_collections
import numpy as np

from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.distributed.step_exchange import StepExchange
from rvm_jax.errors import Diverged
from rvm_jax.models import cost
from rvm_jax.signals import StopRequest
from rvm_jax.terminal import say
from rvm_jax.training import hardware
from rvm_jax.training.batch_feed import MOST_WAITING, BatchFeed
from rvm_jax.training.optimizer import learning_rate
from rvm_jax.training.progress import Progress
from rvm_jax.training.state import Programs
from rvm_jax.training.writer import SKIPPED, Writer

MOST_SKIPPED = 100  # videos that are listed for a skipped step
EARLY = 10.0, 0.2  # seconds, and the share of them spent waiting for data, after which advice does not wait for the log


class RunLog:
    """Reads the metrics of steps and logs every config.log.every of them; a context manager that shows progress.

    The metrics of a step are read one step later, while the next one runs: reading waits for the step, and until then
    the host has given the devices more to do. What processes must know of each other is exchanged at each step in the
    same way, see `StepExchange`: signals, failed videos, waits.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        programs: Programs,
        hosts: ProcessGroup,
        feed: BatchFeed,
        writer: Writer,
        stop: StopRequest,
    ):
        self._config, self._hosts, self._feed, self._writer, self._stop = config, hosts, feed, writer, stop
        self._pace = Pace(config, programs)
        self._progress = Progress(config.steps, is_shown=hosts.is_first)
        self._exchange = StepExchange(programs.mesh)
        self._learning_rate = learning_rate(config.optim, config.steps)
        self._pending: tuple[int, Mapping[str, Any]] | None = None  # (step, metrics) of the step in flight
        self._clock_step: int | None = None  # the clock starts when the first step, which compiles, is done
        self._clock = 0.0
        self._read_retries = 0  # of all processes, in this start of the run

    def __enter__(self) -> Self:
        self._progress.__enter__()
        self._progress.waiting('waiting for the first batch')
        return self

    def __exit__(self, *error: object) -> None:
        """Write which videos failed."""
        try:
            self._feed.wait.close()
            self._report_failures()
        finally:
            self._progress.__exit__(*error)

    def starting(self) -> None:
        """Say before the first step that it is compiled."""
        if self._clock_step is None and self._pending is None:
            self._progress.waiting('compiling the training step')

    def evaluating(self) -> None:
        """Say that steps wait for an evaluation, or for a picture."""
        self._progress.waiting('evaluating')

    def finish(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take note of a step that was just started, and read the metrics of the one before it.

        Tells the other processes which signal this one got, and how many videos failed here. Raises as `flush`.
        """
        self._log_pending()
        if self._clock_step is None:
            self._progress.waiting('running the first step')
        self._pending = step, metrics
        self._feed.wait.watch(metrics)
        self._hosts.stepped(step)
        self._exchange.send([step - 1, self._stop.kind, *self._feed.counts])
        if self._hosts.count == 1:  # there is no other process to wait for
            self._receive()

    def flush(self, held_out: Mapping[str, float] | None = None) -> None:
        """Wait for the step in flight, log it if it is its turn or has held-out losses, and draw the loss curve.

        Raises Diverged, and DataError when too many videos failed: in all processes at the same step.
        """
        step = self._pending and self._pending[0]
        self._log_pending(held_out)
        if step is not None and step == self._clock_step:
            self._clock = time.perf_counter()  # the time of evaluations and saves is not part of the pace
        self._writer.loss_curve()
        self._writer.flush()

    def _log_pending(self, held_out=None):
        """Read the metrics of the step in flight, which waits for it."""
        self._receive()
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        if in_a_row := int(metrics['skipped_in_a_row']):
            self._note_skipped(step, in_a_row)
        is_first = self._clock_step is None
        if is_first:
            self._start_clock(step)
        if held_out or step % self._config.log.every == 0 or step == self._config.steps:
            self._log(step, metrics, held_out or {})
            self._start_clock(step)
        else:
            self._progress.update(step, self._scalars(step, metrics) if is_first else None)
            self._advise(*EARLY)

    def _log(self, step, metrics, held_out):
        """Show and write the numbers of a step."""
        scalars = self._scalars(step, metrics)
        self._progress.update(step, scalars)
        if held_out:
            self._progress.held_out(step, held_out)
        self._advise()
        self._writer.scalars(step, scalars | held_out)
        self._report_failures()

    def _scalars(self, step, metrics):
        """{name: value} of a step, as in metrics.jsonl."""
        scalars = {
            'loss': float(metrics['loss']),
            'learning_rate': float(self._learning_rate(step - 1)),
            'grad_norm': float(metrics['grad_norm']),
            'skipped_videos': self._feed.failures.report['failed'],
            'skipped_steps': int(metrics['skipped_steps']),
        }
        if memory := self._feed.worker_memory():
            scalars['worker_memory_mb'] = memory / 2**20
        if self._read_retries:
            scalars['read_retries'] = self._read_retries
        steps, seconds = step - self._clock_step, self._feed.wait.done_at() - self._clock
        return scalars | self._pace.scalars(steps, seconds, self._feed.wait.share(seconds)) if steps else scalars

    def _advise(self, least_s=0.0, most=MOST_WAITING):
        """Say once what to do if the devices have waited too long for data since the clock started."""
        wait, seconds = self._feed.wait, self._feed.wait.done_at() - self._clock
        if self._hosts.is_first and seconds > least_s and (advice := wait.advice(wait.share(seconds), most)):
            say(advice)

    def _start_clock(self, step):
        self._clock, self._clock_step = self._feed.wait.done_at(), step
        self._feed.wait.restart()

    def _receive(self):
        """Act on what all processes sent at a step: `stop` learns of signals, failed videos are counted."""
        received = self._exchange.read()
        if received is None:
            return
        self._stop.agree(received[:, 1].tolist())
        failed, too_short, retried = map(int, received[:, 2:5].sum(0))
        self._feed.failures.count(int(received[0, 0]), self._config.batch_size, failed, too_short)
        self._read_retries += retried
        self._feed.wait.add(received[:, 5])

    def _report_failures(self):
        self._feed.failures.share_names()
        self._writer.report(self._feed.failures)

    def _note_skipped(self, step, in_a_row):
        """Write whose clips made a skipped step; Diverged if there are too many in a row.

        All processes come here at the same step, because all have the same metrics.
        """
        records = sorted(set(np.concatenate(self._hosts.all_gather(self._feed.records(step))).astype(int)))
        names = self._feed.names(records[:MOST_SKIPPED])
        self._writer.skipped(step, names, len(records))
        if in_a_row >= self._config.optim.max_nonfinite:
            more = f' and {len(records) - 4} more' if len(records) > 4 else ''
            raise Diverged(
                f'step {step}',
                f'the loss or gradients of {in_a_row} steps in a row were NaN or infinite; the last one used clips of '
                f'{", ".join(names[:4])}{more} ({SKIPPED} lists all)',
                'the last checkpoint is good: start a new run from it with --config.init_from=WORKDIR and a lower '
                '--config.optim.peak_lr',
            )


class Pace:
    """How fast a run trains, of all devices together and as a share of what they could do."""

    def __init__(self, config: ml_collections.ConfigDict, programs: Programs):
        sizes = {name: config.data[name] for name in ('num_source', 'num_target', 'image_size')}
        devices = programs.mesh.devices
        self._batch_size, self._devices = config.batch_size, devices.size
        self._clip_flops = cost.train_flops(programs.arch, **sizes)
        self._peak = hardware.device_peak(devices.flat[0], config.model.precision)  # FLOP/s of one device

    def scalars(self, steps: int, seconds: float, data_wait: float) -> dict[str, float]:
        """clips_per_second and the like of so many steps; mfu only where the peak of the devices is known."""
        clips = steps * self._batch_size / seconds
        pace = {
            'clips_per_second': clips,
            'clips_per_second_per_device': clips / self._devices,
            'data_wait': data_wait,
        }
        return pace | ({'mfu': clips * self._clip_flops / (self._peak * self._devices)} if self._peak else {})

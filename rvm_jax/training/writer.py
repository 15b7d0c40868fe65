"""Where numbers and pictures go: metrics.jsonl, PNG files and TensorBoard. Only the first process writes.

What cannot be drawn or written, for any reason, prints one warning, and training continues. The log of a run in a
bucket is written to this machine's disk and copied from there.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np

from rvm_jax.storage import files
from rvm_jax.terminal import Extras
from rvm_jax.training.data_report import FailureLog
from rvm_jax.training.log_upload import LogUploader
from rvm_jax.visualization.canvas import png_bytes

TRIVIAL = {'copy_last': 'copy the last source frame', 'mean_color': 'mean color of the source'}  # drawn as levels
METRICS, SKIPPED = LOGS = 'metrics.jsonl', 'nonfinite.jsonl'  # a resumed run continues both
LARGEST = 1e300  # number that a logged one can be
FLUSH = 30.0  # seconds between flushes of TensorBoard's file


class Writer:
    """Writes the log of a run that starts, or resumes, at `step`: entries of an earlier attempt after it are dropped.

    metrics.jsonl has one object a logged step; held-out losses are called eval_loss, eval_copy_last, eval_mean_color.
    nonfinite.jsonl, if it exists, has one a skipped step, with the videos that its clips are from.
    """

    def __init__(self, workdir: str | os.PathLike, step: int = 0):
        self._extras, self._workdir = Extras('training continues'), os.fspath(workdir)
        self._board: TensorBoard | None = None
        self._upload: LogUploader | None = None
        self._retries = files.retries.total()
        self._is_first = jax.process_index() == 0
        if self._is_first and files.is_remote(workdir):
            self._upload = LogUploader(os.fspath(workdir), LOGS, self._copied)
            self._upload.start()
        self._folder = self._upload.folder if self._upload else workdir
        self._metrics, self._images = (os.path.join(self._folder, name) for name in (METRICS, 'images'))
        if self._is_first:
            for name in LOGS:
                self._try(name, _drop_after, os.path.join(self._folder, name), step)
            self._try('tensorboard', self._open_board, os.path.join(self._folder, 'tensorboard'), step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._try('tensorboard', self._board.close)
        if self._upload is not None:
            self._upload.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers by name; call it once a step. Numbers that are not finite become null."""
        if self._is_first:
            values = {name: _plain(value) for name, value in values.items()}
            if retries := files.retries.total() - self._retries:
                values['store_retries'] = retries
            self._append(METRICS, {'step': int(step), **values})
            if self._board is not None:
                self._try('tensorboard', self._board.scalars, step, values)

    def skipped(self, step: int, videos: list[str], number: int) -> None:
        """Log a step that was skipped because it was not finite, some names of its videos, and how many it had."""
        if self._is_first:
            self._append(SKIPPED, {'step': int(step), 'videos': videos, 'number': number})

    def image(self, step: int, name: str, draw: Callable[[], np.ndarray]) -> None:
        """Write what draw() gives, an RGB uint8 picture, as images/<name>_<step>.png, and to TensorBoard."""
        if self._is_first:
            self._try('images', self._image, step, name, draw)

    def report(self, failures: FailureLog) -> None:
        """Write data_report.json, the videos that could not be used."""
        if self._is_first:
            path = os.path.join(self._folder, 'data_report.json')
            self._try('data_report.json', files.write_json, path, failures.report, 1)

    def loss_curve(self) -> None:
        """Draw images/loss.png from metrics.jsonl, once two losses are logged."""
        if self._is_first:
            self._try('images', self._loss_curve)

    def flush(self) -> None:
        """Wait until the logs that a resumed run continues are in the workdir.

        Call it before a checkpoint is saved. Pictures and TensorBoard files are copied later, in the background.
        """
        if self._upload is not None:
            self._upload.copy_continued()

    def _append(self, name, entry):
        self._try(name, _append, os.path.join(self._folder, name), json.dumps(entry))

    def _open_board(self, folder, step):
        self._board = TensorBoard(folder, step)

    def _write_image(self, name, png):
        os.makedirs(self._images, exist_ok=True)
        files.write(os.path.join(self._images, name), png)

    def _image(self, step, name, draw):
        image_HWC = draw()
        png = png_bytes(image_HWC)
        if self._board is not None:
            self._try('tensorboard', self._board.image, step, name, png, image_HWC.shape)
        self._write_image(f'{name}_{step:08d}.png', png)

    def _loss_curve(self):
        curve_HWC = draw_losses(read_metrics(self._metrics))
        if curve_HWC is not None:
            self._write_image('loss.png', png_bytes(curve_HWC))

    def _copied(self, error):
        if error:
            self._extras.warn(self._workdir, error)

    def _try(self, what, write, *args):
        self._extras.attempt(what, write, *args)


class TensorBoard:
    """One event file, written in this thread.

    tensorboardX's own SummaryWriter has a thread that takes events from a short queue. When a write fails, this thread
    ends, and the caller waits forever.
    """

    def __init__(self, folder: str, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        os.makedirs(folder, exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # The name has only whole seconds; a resume within the same second must not overwrite the earlier file.
        self._events = EventsWriter(os.path.join(folder, 'events'), filename_suffix=f'.{os.getpid()}.{step}')
        self._flushed = time.monotonic()
        # Tells TensorBoard to forget what came after this step in earlier files.
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add numbers by name; None is left out."""
        self._add(step, [{'tag': name, 'simple_value': value} for name, value in values.items() if value is not None])

    def image(self, step: int, name: str, png: bytes, shape_HWC: tuple[int, ...]) -> None:
        """Add a picture that is already a PNG."""
        height, width, colors = shape_HWC
        picture = self._summary.Image(height=height, width=width, colorspace=colors, encoded_image_string=png)
        self._add(step, [{'tag': name, 'image': picture}])

    def flush(self) -> None:
        """Write what is still in memory."""
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is still in memory, and close the file."""
        self._events.close()

    def _add(self, step, values):
        summary = self._summary(value=[self._summary.Value(**value) for value in values])
        self._events.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()


def _plain(value):
    value = value.item() if hasattr(value, 'item') else value
    return value if value is not None and math.isfinite(value) else None


def _append(path, line):
    """Add a whole line, or leave the file as it was; a file that was deleted or moved away is made again."""
    with open(path, 'ab', buffering=0) as file:
        size, data = file.seek(0, os.SEEK_END), f'{line}\n'.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(0, 'only a part was written, the disk is full')
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The numbers logged in a metrics.jsonl, one dict a line; lines that are something else are left out."""
    return [entry for entry in _entries(path) if all(map(_is_logged, entry.values()))]


def _is_logged(value):
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST)


def _entries(path):
    """The objects of a log; a line that was half written when the process was killed is left out."""
    entries = []
    if files.exists(path):
        for line in files.read(path).splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and type(entry.get('step')) is int]


def _drop_after(path, step):
    if os.path.exists(path):
        kept = [json.dumps(entry) for entry in _entries(path) if entry['step'] <= step]
        files.write(path, ''.join(f'{line}\n' for line in kept).encode())


def draw_losses(logged: list[dict[str, Any]], dark: bool = False) -> np.ndarray | None:
    """The loss curve of logged objects as uint8 HWC; None if there are fewer than two losses."""
    from rvm_jax.visualization.plots import loss_curve

    losses = [(entry['step'], entry['loss']) for entry in logged if entry.get('loss') is not None]
    if len(losses) < 2:
        return None
    held_out = [(entry['step'], entry['eval_loss']) for entry in logged if entry.get('eval_loss') is not None]
    levels = []
    for name, label in TRIVIAL.items():
        values = [entry[f'eval_{name}'] for entry in logged if entry.get(f'eval_{name}') is not None]
        levels += [(label, values[-1])] if values else []
    steps, training = zip(*losses, strict=True)
    return loss_curve(steps, training, held_out, levels, dark)

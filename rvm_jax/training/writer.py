"""Where numbers and pictures go: metrics.jsonl, PNG files and TensorBoard. Only the first process writes.

A run outlives its log: what cannot be drawn or written, for whatever reason, costs one warning and not the training.
The log of a run in a bucket is written to this machine's disk and copied from there.
"""

import contextlib
import json
import math
import os
import time

import jax
import numpy as np

from rvm_jax.storage import files
from rvm_jax.terminal import Extras
from rvm_jax.training.log_upload import LogUploader

TRIVIAL = {'copy_last': 'copy the last source frame', 'mean_color': 'mean color of the source'}  # drawn as levels
METRICS, SKIPPED = LOGS = 'metrics.jsonl', 'nonfinite.jsonl'  # a resumed run continues both
LARGEST = 1e300  # of a number that was logged
FLUSH = 30.0  # seconds between flushes of TensorBoard's file


class Writer:
    """Writes the log of a run that starts, or resumes, at `step`: what an earlier attempt logged after it is dropped.

    metrics.jsonl has one object a logged step; held-out losses are called eval_loss, eval_copy_last, eval_mean_color.
    nonfinite.jsonl, if it is there, has one a skipped step, with the videos whose clips it was.
    """

    def __init__(self, workdir, step=0):
        self._extras, self._board, self._mirror = Extras('training continues'), None, None
        self._retries = files.retries.total()
        self._is_first = jax.process_index() == 0
        if self._is_first and files.is_remote(workdir):
            self._mirror = LogUploader(workdir, LOGS, lambda error: error and self._extras.warn(workdir, error))
            self._mirror.start()
        self._folder = self._mirror.folder if self._mirror else workdir
        self._metrics, self._images = (os.path.join(self._folder, name) for name in (METRICS, 'images'))
        if self._is_first:
            for name in LOGS:
                self._extras.attempt(name, _drop_after, os.path.join(self._folder, name), step)
            self._extras.attempt('tensorboard', self._open_board, os.path.join(self._folder, 'tensorboard'), step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._board is not None:
            self._extras.attempt('tensorboard', self._board.close)
        if self._mirror is not None:
            self._mirror.close()

    def scalars(self, step, values):
        """Log numbers by name; call it once a step. What is not finite becomes null."""
        if self._is_first:
            values = {name: _plain(value) for name, value in values.items()}
            if retries := files.retries.total() - self._retries:
                values['store_retries'] = retries
            self._append(METRICS, {'step': int(step), **values})
            if self._board is not None:
                self._extras.attempt('tensorboard', self._board.scalars, step, values)

    def skipped(self, step, videos, number):
        """Log a step that was skipped because it was not finite, names of its videos, and how many these are."""
        if self._is_first:
            self._append(SKIPPED, {'step': int(step), 'videos': videos, 'number': number})

    def image(self, step, name, draw):
        """Write what draw() gives, an RGB uint8 picture, as images/<name>_<step>.png, and to TensorBoard."""
        if self._is_first:
            self._extras.attempt('images', self._image, step, name, draw)

    def report(self, failures):
        """Write data_report.json, the videos that could not be used."""
        if self._is_first:
            path = os.path.join(self._folder, 'data_report.json')
            self._extras.attempt('data_report.json', files.write_json, path, failures.report, 1)

    def loss_curve(self):
        """Draw images/loss.png from metrics.jsonl; nothing before two losses are logged."""
        if self._is_first:
            self._extras.attempt('images', self._loss_curve)

    def flush(self):
        """Wait until the logs that a resumed run continues are where they belong.

        Call it before a checkpoint is saved. LazyFrames and TensorBoard follow by themselves.
        """
        if self._mirror is not None:
            self._mirror.copy_continued()

    def _append(self, name, entry):
        self._extras.attempt(name, _append, os.path.join(self._folder, name), json.dumps(entry))

    def _open_board(self, folder, step):
        self._board = TensorBoard(folder, step)

    def _image(self, step, name, draw):
        image_HWC = draw()
        png = _encode(image_HWC)
        if self._board is not None:
            self._extras.attempt('tensorboard', self._board.image, step, name, png, image_HWC.shape)
        self._write_image(f'{name}_{step:08d}.png', png)

    def _loss_curve(self):
        curve_HWC = draw_losses(read_metrics(self._metrics))
        if curve_HWC is not None:
            self._write_image('loss.png', _encode(curve_HWC))

    def _write_image(self, name, png):
        os.makedirs(self._images, exist_ok=True)
        files.write(os.path.join(self._images, name), png)


class TensorBoard:
    """One event file, written in this thread.

    tensorboardX's own SummaryWriter hands events to a thread through a short queue; once a write fails that thread is
    gone and the caller waits for ever.
    """

    def __init__(self, folder, step):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        os.makedirs(folder, exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # The name has only whole seconds; a resume within the same one must not overwrite the file before.
        self._events = EventsWriter(os.path.join(folder, 'events'), filename_suffix=f'.{os.getpid()}.{step}')
        self._flushed = time.monotonic()
        # Tells TensorBoard to forget what came after this step in earlier files.
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def scalars(self, step, values):
        """Add numbers by name; None is left out."""
        self._add(step, [{'tag': name, 'simple_value': value} for name, value in values.items() if value is not None])

    def image(self, step, name, png, shape_HWC):
        """Add a picture that is already a PNG."""
        height, width, colors = shape_HWC
        picture = self._summary.Image(height=height, width=width, colorspace=colors, encoded_image_string=png)
        self._add(step, [{'tag': name, 'image': picture}])

    def flush(self):
        """Write what is left."""
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self):
        """Write what is left, and close the file."""
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
    """Add a line whole, or leave the file as it was; a file that was deleted or moved away begins anew."""
    with open(path, 'ab', buffering=0) as file:
        size, data = file.seek(0, os.SEEK_END), f'{line}\n'.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(0, 'cut short, the disk is full')
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def read_metrics(path):
    """The numbers logged in a metrics.jsonl, one dict a line; what cannot be such a line is left out."""
    return [entry for entry in _entries(path) if all(map(_is_logged, entry.values()))]


def _is_logged(value):
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST)


def _entries(path):
    """The objects of a log; a line that a kill left half written is left out."""
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


def _encode(image_HWC):
    import cv2

    return cv2.imencode('.png', np.ascontiguousarray(image_HWC[..., ::-1]))[1].tobytes()


def draw_losses(logged, dark=False):
    """The loss curve of logged objects as uint8 HWC, or None before two losses are there."""
    from rvm_jax.visualization.plots import loss_curve

    losses = [(entry['step'], entry['loss']) for entry in logged if entry.get('loss') is not None]
    if len(losses) < 2:
        return None
    held_out = [(entry['step'], entry['eval_loss']) for entry in logged if entry.get('eval_loss') is not None]
    levels = []
    for name, label in TRIVIAL.items():
        values = [entry[f'eval_{name}'] for entry in logged if entry.get(f'eval_{name}') is not None]
        levels += [(label, values[-1])] if values else []
    return loss_curve(*zip(*losses, strict=True), held_out, levels, dark)

"""Runs one benchmark on one backbone and writes its folder: results, a table row, the readout, pictures."""

import dataclasses
import functools
import io
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rvm_jax.probing import drawing, feature_batches, results, tables, train_readout
from rvm_jax.probing.backbone import Backbone
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames
from rvm_jax.probing.interfaces import PropagationTask
from rvm_jax.probing.registry import OpenBenchmark
from rvm_jax.probing.tasks import propagation
from rvm_jax.signals import StopRequest
from rvm_jax.storage import atomic
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.terminal import Extras, markdown
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.version import version
from rvm_jax.visualization import canvas
from rvm_jax.visualization.plots import loss_curve

if TYPE_CHECKING:
    from rich.progress import Progress

PICTURED = 4  # examples, evenly spread


def run_benchmark(
    benchmark: OpenBenchmark, backbone: Backbone, folder: str, *, seed: int = 0, progress: 'Progress'
) -> dict[str, Any]:
    """The results of a benchmark, which are also written to `folder`; a finished folder is only read.

    Raises UserError for the folder of another probe, and Stopped on SIGTERM or Ctrl-C: the same call resumes.
    """
    settings = {
        'task': benchmark.name,
        'model': backbone.describe(),
        'protocol': dataclasses.asdict(benchmark.task),
        'seed': seed,
        'data': benchmark.data,
        'roots': benchmark.roots,
    }
    if benchmark.schedule is not None:
        settings['schedule'] = dataclasses.asdict(benchmark.schedule)
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    with run_lock(folder, '--output'), StopRequest() as stop:
        if benchmark.schedule is not None:
            scores, left_out = _read_out(benchmark, backbone, folder, seed, stop, progress)
        else:
            scores, left_out = _propagate(benchmark, backbone, folder, stop, progress), {}
    metric = benchmark.metric
    found = settings | {
        'metric': metric.name,
        'value': scores[metric.name],
        'higher_is_better': metric.higher_is_better,
        'scores': scores,
        'left_out': left_out,
        'seconds': round(time.monotonic() - start),
        'version': version(),
    }
    row = [backbone.name, tables.number(scores[metric.name])]
    table = markdown(['model', f'{benchmark.name} {metric.name}'], [row])
    atomic.write_bytes(os.path.join(folder, results.ROW), table.encode())
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


def _read_out(benchmark, backbone, folder, seed, stop, progress):
    """Scores of a readout, which is trained first; and the clips that could not be read."""
    task, schedule = benchmark.task, benchmark.schedule
    train, evaluated = (feature_batches.Batches(backbone, source) for source in (benchmark.train, benchmark.evaluated))
    bar = progress.add_task('training the readout', total=schedule.steps)
    with Checkpoints(folder, keep=1) as checkpoints:
        readout, curve = train_readout.train_readout(
            task, train, schedule, seed=seed, checkpoints=checkpoints, stop=stop,
            progress=lambda step, loss: progress.update(bar, completed=step),
        )  # fmt: skip
    extras = Extras('the scores do not need it')
    extras.attempt('pictures', draw_curve, os.path.join(folder, results.CURVE), curve)
    bar = progress.add_task('evaluating', total=len(evaluated))
    scores, shown = train_readout.evaluate_readout(
        task, evaluated, readout, batch_size=schedule.batch_size, shown=_pictured(len(evaluated)), stop=stop,
        progress=lambda done: progress.update(bar, completed=done),
    )  # fmt: skip
    classes = getattr(benchmark.evaluated, 'classes', None)
    for number, (prediction, example) in enumerate(shown):
        path = os.path.join(folder, f'prediction_{number}.png')
        draw = functools.partial(drawing.picture, example['video_THWC'], prediction, example, classes)
        extras.attempt('pictures', _write_picture, path, draw)
    return scores, {'training': list(train.failed.values()), 'evaluation': list(evaluated.failed.values())}


def _propagate(benchmark, backbone, folder, stop, progress):
    """Scores of a task that carries labels through videos; the record of a video is kept as soon as it is computed."""
    task = propagation.fitted(benchmark.task, backbone.patch_size)
    bar = progress.add_task('propagating', total=len(benchmark.evaluated))
    features = functools.partial(propagation.patch_features, backbone)
    pictured, records, extras = _pictured(len(benchmark.evaluated)), [], Extras('the scores do not need it')
    for index in range(len(benchmark.evaluated)):
        stop.current = 'a video'
        kept = os.path.join(folder, f'video_{index:05}.npz')
        if not os.path.exists(kept):
            record, draw = propagate_one(task, benchmark.evaluated.video(index), features, index in pictured)
            if draw is not None:
                path = os.path.join(folder, f'prediction_{pictured.index(index)}.png')
                extras.attempt('pictures', _write_picture, path, draw)
            _write_record(kept, record)
        with np.load(kept) as record:
            records.append(dict(record))
        progress.update(bar, completed=index + 1)
        stop.check(f'{index + 1} of {len(benchmark.evaluated)} videos are done')
    return task.scores(records)


def propagate_one(
    task: PropagationTask, video: LabelledFrames, features: propagation.Features, is_pictured: bool
) -> tuple[dict[str, np.ndarray], Callable[[], np.ndarray | None] | None]:
    """What the task keeps of one video, and a function that draws it (predicted labels above the true ones) or None."""
    predictions = task.predict(video, features)
    if not is_pictured:
        return task.measure(predictions, video), None
    kept = list(predictions)
    draw = functools.partial(_propagated_picture, kept, video)
    return task.measure(iter(kept), video), draw if kept else None


def _write_picture(path, draw):
    """Write what draw() gives, if it gives anything."""
    drawn = draw()
    if drawn is not None:
        canvas.write_png(path, drawn)


def _propagated_picture(predictions, video):
    frames_THWC = np.stack(list(video.frames())[: len(predictions)])
    truth = [video.truth(t) for t in range(len(predictions))]
    if isinstance(predictions[0], tuple):
        size_2 = np.array(frames_THWC.shape[2:0:-1])
        tracks_QT2 = np.stack([points_Q2 for points_Q2, _ in predictions], axis=1) / size_2
        visible_QT = np.stack([visible_Q for _, visible_Q in predictions], axis=1)
        truth_QT2 = np.stack(truth, axis=1) / size_2
        everywhere_QT = np.ones(visible_QT.shape, bool)
        return drawing.picture(
            frames_THWC, {'tracks_QT2': tracks_QT2, 'visible_QT': visible_QT},
            {'tracks_QT2': truth_QT2, 'visible_QT': everywhere_QT, 'valid_Q': everywhere_QT[:, 0]},
        )  # fmt: skip
    return drawing.picture(frames_THWC, {'patches_Thw': np.stack(predictions)}, {'masks_THW': np.stack(truth)})


def _pictured(total):
    """Which of `total` examples are drawn."""
    return sorted({round(place) for place in np.linspace(0, total - 1, min(PICTURED, total))})


def _write_record(path, record):
    packed = io.BytesIO()
    np.savez_compressed(packed, **record)
    atomic.write_bytes(path, packed.getvalue())


def draw_curve(path: str, curve: Sequence[dict[str, float]]) -> None:
    """Write the loss of a readout over its steps as a PNG; nothing if there is only one point."""
    if len(curve) > 1:
        canvas.write_png(path, loss_curve([point['step'] for point in curve], [point['loss'] for point in curve]))

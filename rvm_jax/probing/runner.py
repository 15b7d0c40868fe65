"""Runs one benchmark on one backbone and writes its folder: results, a table row, the readout, pictures."""

import dataclasses
import functools
import io
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rvm_jax.probing import drawing, feature_batches, pooled_features, results, tables, train_readout
from rvm_jax.probing.backbone import Backbone
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames
from rvm_jax.probing.interfaces import PropagationTask
from rvm_jax.probing.registry import ATTENTIVE, OpenBenchmark
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
    benchmark = _fitted(benchmark, backbone)
    settings = _settings(benchmark, backbone, seed)
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    left_out: dict[str, list[str]] = {}
    with run_lock(folder, '--output'), StopRequest() as stop:
        if benchmark.train is not None:
            scores, left_out = _read_out(benchmark, backbone, folder, seed, stop, progress)
        else:
            scores = {ATTENTIVE: _propagate(benchmark, backbone, folder, stop, progress)}
    measured = {readout: _measured(benchmark.metric, of_one) for readout, of_one in scores.items()}
    found = settings | next(iter(measured.values()))
    if 'readouts' in settings:
        found['readouts'] = {readout: settings['readouts'][readout] | measured[readout] for readout in measured}
    if hasattr(benchmark.evaluated, 'clip_format'):
        found['clip_format'] = benchmark.evaluated.clip_format
    found |= {'left_out': left_out, 'seconds': round(time.monotonic() - start), 'version': version()}
    columns = results.by_column(benchmark.name, found)
    header = ['model', *(f'{name} {benchmark.metric.name}' for name in columns)]
    row = [backbone.name, *(tables.number(column['value']) for column in columns.values())]
    atomic.write_bytes(os.path.join(folder, results.ROW), markdown(header, [row]).encode())
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


def _fitted(benchmark, backbone):
    """The benchmark with clips as the backbone wants them, if its sources ask."""
    sources = {'train': benchmark.train, 'evaluated': benchmark.evaluated}
    fitted = {part: source.fitted(backbone) for part, source in sources.items() if hasattr(source, 'fitted')}
    return dataclasses.replace(benchmark, **fitted)


def _settings(benchmark, backbone, seed):
    """What a probe is; protocol and schedule are those of each readout if there are others than the attentive one."""
    settings = {
        'task': benchmark.name,
        'model': backbone.describe(),
        'seed': seed,
        'data': benchmark.data,
        'roots': benchmark.roots,
    }
    trained = {'protocol': dataclasses.asdict(benchmark.task)}
    if benchmark.schedule is not None:
        trained['schedule'] = dataclasses.asdict(benchmark.schedule)
    if benchmark.readouts.keys() <= {ATTENTIVE}:
        return settings | trained
    readouts = {
        name: trained if pooled is None else {'protocol': dataclasses.asdict(pooled)}
        for name, pooled in benchmark.readouts.items()
    }
    return settings | {'readouts': readouts}


def _measured(metric, scores):
    """A score of a table, and all others beside it."""
    value = {'metric': metric.name, 'value': scores[metric.name], 'higher_is_better': metric.higher_is_better}
    return value | {'scores': scores}


def _read_out(benchmark, backbone, folder, seed, stop, progress):
    """{readout: its scores}, and the clips that could not be read."""
    train, evaluated = (feature_batches.Batches(backbone, source) for source in (benchmark.train, benchmark.evaluated))
    extras = Extras('the scores do not need it')
    if hasattr(benchmark.evaluated, 'table'):
        listed = benchmark.evaluated.table().encode(errors='surrogateescape')
        extras.attempt('split', atomic.write_bytes, os.path.join(folder, results.SPLIT), listed)
    pooled = {name: readout for name, readout in benchmark.readouts.items() if readout is not None}
    scores, shown = {}, []
    if pooled:
        scores, shown = _fit_pooled(benchmark, pooled, train, evaluated, folder, stop, progress)
    if ATTENTIVE in benchmark.readouts:
        scores[ATTENTIVE], shown = _train_attentive(benchmark, train, evaluated, folder, seed, stop, progress, extras)
    classes = getattr(benchmark.evaluated, 'classes', None)
    for number, (prediction, example) in enumerate(shown):
        path = os.path.join(folder, f'prediction_{number}.png')
        draw = functools.partial(drawing.picture, example['video_THWC'], prediction, example, classes)
        extras.attempt('pictures', _write_picture, path, draw)
    left_out = {'training': list(train.failed.values()), 'evaluation': list(evaluated.failed.values())}
    return {name: scores[name] for name in benchmark.readouts}, left_out


def _fit_pooled(benchmark, pooled, train, evaluated, folder, stop, progress):
    """{readout: scores} of the readouts of averaged features, kept in the folder; and clips to draw."""
    path = os.path.join(folder, results.POOLED)
    kept = results.read_json(path)
    if kept is not None:
        train.failed.update(dict(kept['failed'][0]))
        evaluated.failed.update(dict(kept['failed'][1]))
        return kept['scores'], []
    bar = progress.add_task('features for linear and kNN', total=len(train) + len(evaluated))
    read = functools.partial(
        pooled_features.read, batch_size=benchmark.schedule.batch_size, stop=stop,
        progress=lambda count: progress.advance(bar, count),
    )  # fmt: skip
    known, asked = read(train), read(evaluated, shown=_pictured(len(evaluated)))
    scores, shown = pooled_features.score(benchmark.task, pooled, known, asked)
    failed = [sorted(data.failed.items()) for data in (train, evaluated)]
    results.write_json(path, {'scores': scores, 'failed': failed})
    return scores, shown


def _train_attentive(benchmark, train, evaluated, folder, seed, stop, progress, extras):
    """Scores of the readout that learns by steps, and clips to draw."""
    task, schedule = benchmark.task, benchmark.schedule
    bar = progress.add_task('training the readout', total=schedule.steps)
    with Checkpoints(folder, keep=1) as checkpoints:
        readout, curve = train_readout.train_readout(
            task, train, schedule, seed=seed, checkpoints=checkpoints, stop=stop,
            progress=lambda step, loss: progress.update(bar, completed=step),
        )  # fmt: skip
    extras.attempt('pictures', draw_curve, os.path.join(folder, results.CURVE), curve)
    bar = progress.add_task('evaluating', total=len(evaluated))
    return train_readout.evaluate_readout(
        task, evaluated, readout, batch_size=schedule.batch_size, shown=_pictured(len(evaluated)), stop=stop,
        progress=lambda done: progress.update(bar, completed=done),
    )  # fmt: skip


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

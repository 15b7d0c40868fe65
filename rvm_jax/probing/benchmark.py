"""Runs one benchmark on one backbone and leaves its folder: results, a table row, the readout, pictures."""

import dataclasses
import os
import time

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing import batches, pictures, results, run
from rvm_jax.probing.suite import BENCHMARKS, Readout
from rvm_jax.probing.tasks import propagation
from rvm_jax.visualization import canvas
from rvm_jax.visualization.curves import loss_curve

PICTURED = 4  # examples


def run_benchmark(name, backbone, sources, folder, *, streaming=False, seed=0, schedule=None, progress):
    """Results of a benchmark, which are in `folder`, too; what is there already is not computed again.

    sources: as from `open_sources`. schedule: {field: value} that differ from the published ones. progress is a `rich`
    Progress. Raises UserError for a folder of another probe, and for settings that do not go with the benchmark.
    """
    train, evaluated = sources
    benchmark = BENCHMARKS[name]
    is_trained = train is not None
    if not is_trained and (streaming or schedule):
        raise UserError(f'--task {name}', 'trains nothing', 'leave the flags of the readout out')
    task = dataclasses.replace(benchmark.task, streaming=True) if streaming else benchmark.task
    settings = {'task': name, 'model': backbone.describe(), 'protocol': dataclasses.asdict(task), 'seed': seed}
    if is_trained:
        schedule = dataclasses.replace(benchmark.schedule, **(schedule or {}))
        settings['schedule'] = dataclasses.asdict(schedule)
    settings |= {'data': {'evaluated': len(evaluated), 'trained': len(train) if is_trained else 0}}
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    if is_trained:
        scores = _readout(task, backbone, train, evaluated, schedule, folder, seed, progress)
    else:
        scores = _propagation(task, backbone, evaluated, folder, progress)
    found = settings | {
        'metric': task.metric,
        'value': scores[task.metric],
        'higher_is_better': task.higher_is_better,
        'scores': scores,
        'seconds': round(time.monotonic() - start),
        'version': results.version(),
    }
    row = [backbone.name, results.number(scores[task.metric])]
    canvas.write_bytes(
        os.path.join(folder, results.ROW), results.markdown(['model', f'{name} {task.metric}'], [row]).encode()
    )
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


def open_sources(name, root, train_root=None):
    """What a benchmark trains on, or None, and what it evaluates: two sources. UserError if one is missing."""
    if name not in BENCHMARKS:
        raise UserError(f'--task {name}', 'there is no such task', f'take demo, {", ".join(BENCHMARKS)}')
    if root is None:
        raise UserError(f'--task {name}', 'needs its dataset', 'say with --data where it lies')
    benchmark, train = BENCHMARKS[name], None
    if isinstance(benchmark, Readout):
        train = (benchmark.train_dataset or benchmark.dataset)(train_root or root, 'train')
    return train, benchmark.dataset(root, 'val')


def _readout(task, backbone, train, evaluated, schedule, folder, seed, progress):
    bar = progress.add_task('training the readout', total=schedule.steps)
    readout, curve = run.train_readout(
        task, batches.Batches(backbone, train), schedule, seed=seed, workdir=os.path.join(folder, 'readout'),
        progress=lambda step, loss: progress.update(bar, completed=step),
    )  # fmt: skip
    draw_curve(os.path.join(folder, results.CURVE), curve)
    bar = progress.add_task('evaluating', total=len(evaluated))
    scores, predictions, examples = run.evaluate_readout(
        task, batches.Batches(backbone, evaluated), readout, batch_size=schedule.batch_size,
        progress=lambda done: progress.update(bar, completed=done),
    )  # fmt: skip
    for index in range(min(PICTURED, len(examples))):
        drawn = pictures.picture(
            evaluated.example(index, None)['video_THWC'], predictions[index], examples[index],
            getattr(evaluated, 'classes', None),
        )  # fmt: skip
        if drawn is not None:
            canvas.write_png(os.path.join(folder, f'prediction_{index}.png'), drawn)
    return scores


def _propagation(task, backbone, evaluated, folder, progress):
    bar = progress.add_task('propagating', total=len(evaluated))

    def features(frames):
        return propagation.patch_features(backbone, frames)

    def videos():
        for index in range(len(evaluated)):
            yield evaluated.video(index)
            progress.update(bar, completed=index + 1)

    scores = propagation.evaluate(task, videos(), features)
    for index in range(min(PICTURED, len(evaluated))):
        drawn = propagated_picture(task, evaluated.video(index), features)
        if drawn is not None:
            canvas.write_png(os.path.join(folder, f'prediction_{index}.png'), drawn)
    return scores


def propagated_picture(task, video, features):
    """Frames with the predicted labels above those with the true ones; None for a video that does not count."""
    predictions = list(task.predict(video, features))
    if not predictions:
        return None
    frames_THWC = np.stack(list(video.frames())[: len(predictions)])
    truth = [video.truth(t) for t in range(len(predictions))]
    if isinstance(predictions[0], tuple):
        size_2 = np.array(frames_THWC.shape[2:0:-1])
        tracks_QT2 = np.stack([points_Q2 for points_Q2, _ in predictions], axis=1) / size_2
        visible_QT = np.stack([visible_Q for _, visible_Q in predictions], axis=1)
        truth_QT2 = np.stack(truth, axis=1) / size_2
        everywhere_QT = np.ones(visible_QT.shape, bool)
        return pictures.picture(
            frames_THWC, {'tracks_QT2': tracks_QT2, 'visible_QT': visible_QT},
            {'tracks_QT2': truth_QT2, 'visible_QT': everywhere_QT, 'valid_Q': everywhere_QT[:, 0]},
        )  # fmt: skip
    return pictures.picture(frames_THWC, {'patches_Thw': np.stack(predictions)}, {'masks_THW': np.stack(truth)})


def draw_curve(path, curve):
    """The loss of a readout over its steps as a PNG."""
    if len(curve) > 1:
        canvas.write_png(path, loss_curve([point['step'] for point in curve], [point['loss'] for point in curve]))

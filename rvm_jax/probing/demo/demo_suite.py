"""Every kind of probe on rendered clips, in minutes on a CPU: `demo`, and `quick`, a part of it for a sweep.

Features are read linearly, and once with a small attentive readout (`demo_readouts`); masks and keypoints are
propagated as in the public benchmarks. The sizes are our choice, so scores only compare models with each other.
Features wider than `demo_readouts.WIDTH` are projected to it at random, so that readouts take the same time for any
model.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rvm_jax.probing import registry, results, runner, tables
from rvm_jax.probing.backbone import Backbone, open_backbone
from rvm_jax.probing.demo import demo_readouts
from rvm_jax.probing.demo.demo_clips import DemoClips, DemoKeypoints, DemoMasks, NoiseSquares
from rvm_jax.probing.registry import SUITES, Metric, Suite
from rvm_jax.probing.tasks import propagation
from rvm_jax.signals import StopRequest
from rvm_jax.storage import atomic
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.terminal import markdown
from rvm_jax.version import version
from rvm_jax.visualization import canvas

if TYPE_CHECKING:
    from rich.progress import Progress

VERSION = 2  # increase it when the same settings give other scores
SEED = 1000  # of the clips; the videos of `rvm demo` have other seeds
NUM_FRAMES, NOISE_FRAMES, PROPAGATED_FRAMES = 8, 16, 24
NOISE_TRAIN, NOISE_HELD_OUT = 256, 64
RADIUS = 8


def read_outs(suite: Suite, seed: int) -> dict[str, tuple[Callable[..., demo_readouts.Result], Metric]]:
    """{task: (function from training and held-out data to scores and pictures, its metric)}."""
    attentive = functools.partial(demo_readouts.attentive_motion, seed=seed), registry.TOP1
    return {
        'motion': (demo_readouts.motion, registry.TOP1),
        **({'motion attentive': attentive} if suite.attentive else {}),
        'camera': (demo_readouts.camera, registry.SHARE_OF_MOTION),
        'points': (demo_readouts.points, registry.SHARE_OF_MOTION),
        'boxes': (demo_readouts.boxes, registry.SHARE_OF_MOTION),
        'depth': (demo_readouts.depth, registry.ABS_REL),
    }


def run_demo(
    path: str,
    folder: str,
    *,
    suite: str = 'demo',
    clips: str | None = None,
    step: int | None = None,
    seed: int = 0,
    precision: str = 'float32',
    progress: 'Progress',
) -> dict[str, Any]:
    """The contents of results.json, with {backbone: {task: {'metric', 'value', ...}}} as 'results'.

    suite: a name in registry.SUITES. clips: a folder for the rendered clips, which several models may use one after
    the other (default: a folder inside `folder`). The part of each backbone is kept as soon as it is computed. Raises
    UserError for the folder of another probe, and Stopped on SIGTERM or Ctrl-C, within some seconds: the same call
    resumes.
    """
    chosen = SUITES[suite]
    backbones = _open_backbones(chosen, path, step, seed, precision)
    described = backbones['model'].describe()
    settings = {'task': suite, 'model': described, 'seed': seed, 'protocol': _protocol(chosen)}
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    size = demo_readouts.GRID * backbones['model'].patch_size
    parts: dict[str, Any] = {}
    with run_lock(folder, '--output'), StopRequest() as stop:
        stop.current = 'a batch'
        check = functools.partial(stop.check, 'what is finished is kept')
        rendered = Clips(chosen, clips or os.path.join(folder, 'clips'), size, progress=progress, check=check)
        for name, backbone in backbones.items():
            part = os.path.join(folder, f'{name.replace(" ", "_")}.json')
            parts[name] = results.read_json(part)
            if parts[name] is None:
                pictured = os.path.join(folder, 'pictures') if name == 'model' else None
                parts[name] = probe(
                    backbone, rendered, seed=seed, pictured=pictured, name=name, progress=progress, check=check
                )
                results.write_json(part, parts[name])
    found = settings | {
        'models': {name: backbone.describe() for name, backbone in backbones.items()},
        'results': parts,
        'seconds': round(time.monotonic() - start),
        'version': version(),
    }
    atomic.write_bytes(os.path.join(folder, results.ROW), markdown(*table(parts)).encode())
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


def _open_backbones(suite, path, step, seed, precision):
    """{name: Backbone}: the model, its image encoder if it is more than that, and the same with random weights."""
    backbones = {'model': open_backbone(path, step=step, precision=precision)}
    if not suite.baselines:
        return backbones
    if backbones['model'].architecture.core != 'identity':
        backbones['image encoder'] = open_backbone(path, tap='encoder', step=step, precision=precision)
    return backbones | {'random weights': open_backbone(path, random_seed=seed, precision=precision)}


def _protocol(suite):
    """What must be the same for two results of a suite to compare."""
    return {
        'clips': [suite.train, suite.held_out, NUM_FRAMES],
        'noise': [NOISE_TRAIN, NOISE_HELD_OUT, NOISE_FRAMES],
        'propagated': [suite.propagated, PROPAGATED_FRAMES, RADIUS],
        'width': demo_readouts.WIDTH,
        'schedule': dataclasses.asdict(demo_readouts.SCHEDULE),
        'version': VERSION,
    }


class Clips:
    """The clips of a suite, `size` pixels on a side; clips that are missing in the folder are rendered."""

    def __init__(
        self, suite: Suite, folder: str, size: int, *, progress: 'Progress', check: Callable[[], None] = lambda: None
    ) -> None:
        self.suite, self.size = suite, size
        total = suite.train + suite.held_out + suite.propagated
        bar = progress.add_task('rendering clips', total=total)

        def rendered(name, count, seed, num_frames, before):
            def note(done, _total):
                progress.update(bar, completed=before + done)
                check()

            # A model with other patches needs clips of another size, which have a folder of their own.
            place = os.path.join(folder, f'{size}_pixels', name)
            return DemoClips(place, count, seed=seed, num_frames=num_frames, size=size, progress=note)

        before = suite.train + suite.held_out
        self.train = rendered('train', suite.train, SEED, NUM_FRAMES, 0)
        self.held_out = rendered('held_out', suite.held_out, SEED + 1, NUM_FRAMES, suite.train)
        self.long = rendered('long', suite.propagated, SEED + 2, PROPAGATED_FRAMES, before)
        progress.update(bar, completed=total)
        self.noise = NoiseSquares(NOISE_TRAIN, SEED, NOISE_FRAMES, size)
        self.noise_held_out = NoiseSquares(NOISE_HELD_OUT, SEED + 1, NOISE_FRAMES, size)


def probe(
    backbone: Backbone,
    clips: Clips,
    *,
    seed: int,
    pictured: str | None,
    name: str,
    progress: 'Progress',
    check: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """{task: {'metric', 'value', 'higher_is_better', 'scores'}} of one backbone; pictured: a folder for pictures."""
    read: tuple[Any, ...] = (clips.train, clips.held_out, clips.noise, clips.noise_held_out, clips.long, clips.long)
    bar = progress.add_task(f'{name}, features', total=sum(len(source) for source in read))
    found = {}

    def done(count):
        progress.advance(bar, count)
        check()

    def note(task_name, metric, scores, drawn):
        found[task_name] = {
            'metric': metric.name,
            'value': scores[metric.name],
            'higher_is_better': metric.higher_is_better,
            'scores': scores,
        }
        if pictured:
            _write_pictures(pictured, task_name, drawn)
        check()

    train = demo_readouts.Data.of(backbone, clips.train, done=done)
    held_out = demo_readouts.Data.of(backbone, clips.held_out, like=train, done=done)
    for task_name, (read_out, metric) in read_outs(clips.suite, seed).items():
        progress.update(bar, description=f'{name}, {task_name}')
        note(task_name, metric, *read_out(train, held_out))
    progress.update(bar, description=f'{name}, noise square')
    train = demo_readouts.Data.of(backbone, clips.noise, done=done)
    held_out = demo_readouts.Data.of(backbone, clips.noise_held_out, like=train, done=done)
    note('noise square', registry.MIOU, *demo_readouts.noise_square(train, held_out))
    if not len(clips.long):
        return found
    progress.update(bar, description=f'{name}, masks and keypoints')
    settings = propagation.Settings((2 * clips.size, 2 * clips.size), radius=RADIUS)
    masks = propagate(propagation.ObjectMasks(settings), DemoMasks(clips.long), backbone, done)
    note('masks', registry.J_AND_F, *masks)
    keypoints = propagate(propagation.Keypoints(settings), DemoKeypoints(clips.long), backbone, done)
    note('keypoints', registry.PCK_HALF, *keypoints)  # a tenth of an object is less than a cell of this grid
    return found


def _write_pictures(folder, task_name, drawn):
    for index, picture in enumerate(drawn):
        os.makedirs(folder, exist_ok=True)
        canvas.write_png(os.path.join(folder, f'{task_name.replace(" ", "_")}_{index}.png'), picture)


def propagate(
    task: Any, videos: DemoMasks | DemoKeypoints, backbone: Backbone, done: Callable[[int], None]
) -> demo_readouts.Result:
    """Scores of a task that carries labels through videos, and pictures of the first ones."""
    features = functools.partial(propagation.patch_features, backbone)
    records: list[dict[str, np.ndarray]] = []
    drawn: list[np.ndarray] = []
    for index in range(len(videos)):
        record, draw = runner.propagate_one(task, videos.video(index), features, index < demo_readouts.PICTURED)
        records.append(record)
        if (picture := draw and draw()) is not None:
            drawn.append(picture)
        done(1)
    return task.scores(records), drawn


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the results of some backbones: a row for each task, and the normalized average of several."""
    tasks = next(iter(found.values()))
    rows = [
        [f'{task}, {facts["metric"]} {tables.arrow(facts["higher_is_better"])}']
        + [tables.number(of_one[task]['value']) for of_one in found.values()]
        for task, facts in tasks.items()
    ]
    values = {name: {task: facts['value'] for task, facts in of_one.items()} for name, of_one in found.items()}
    if len(values) > 1 and all(math.isfinite(value) for of_one in values.values() for value in of_one.values()):
        averages = tables.normalized_average(values, {task: facts['higher_is_better'] for task, facts in tasks.items()})
        rows.append(['normalized average ↑', *(tables.number(averages[name]) for name in found)])
    return ['task', *found], rows

"""Every kind of probe on rendered clips, in minutes on a CPU: a model, its image encoder alone, and random weights.

Features are read out linearly, and once by a small attentive readout (`demo_tasks`); masks and keypoints are propagated
as in the public benchmarks. Sizes are ours, and the figures compare models with each other and with nothing else.
Features wider than `demo_tasks.WIDTH` are projected to it at random, so that readouts take as long for any model.
"""

import dataclasses
import functools
import math
import os
import time

from rvm_jax.probing import results, runner
from rvm_jax.probing.backbone import open_backbone
from rvm_jax.probing.demo import demo_readouts
from rvm_jax.probing.demo.demo_clips import DemoClips, DemoKeypoints, DemoMasks, NoiseSquares
from rvm_jax.probing.metrics import summary
from rvm_jax.probing.tasks import propagation
from rvm_jax.signals import StopRequest
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.version import version
from rvm_jax.visualization import canvas

VERSION = 2  # raise it when the same settings begin to give other scores
SEED = 1000  # of the clips; the videos of `rvm demo` have other seeds
NUM_TRAIN, NUM_HELD_OUT, NUM_FRAMES = 4096, 512, 8
NOISE_TRAIN, NOISE_HELD_OUT, NOISE_FRAMES = 256, 64, 16
NUM_PROPAGATED, PROPAGATED_FRAMES, RADIUS = 32, 24, 8


def read_outs(seed):
    """{task: (function from training and held-out data to scores and pictures, metric, whether higher is better)}."""
    return {
        'motion': (demo_readouts.motion, 'top1', True),
        'motion attentive': (functools.partial(demo_readouts.attentive_motion, seed=seed), 'top1', True),
        'camera': (demo_readouts.camera, 'share_of_motion', False),
        'points': (demo_readouts.points, 'share_of_motion', False),
        'boxes': (demo_readouts.boxes, 'share_of_motion', False),
        'depth': (demo_readouts.depth, 'abs_rel', False),
    }


def run_demo(path, folder, *, clips=None, step=None, seed=0, precision='float32', progress):
    """What goes into results.json, with {backbone: {task: {'metric', 'value', ...}}} as 'results'.

    clips: a folder where the rendered clips are kept, which several models may share one after the other (default: a
    folder inside). Each backbone's part is kept as soon as it is done. Raises UserError for a folder of another probe,
    and Stopped on SIGTERM or Ctrl-C, between pieces of work of some seconds: the same call resumes.
    """
    open_one = {'step': step, 'precision': precision}
    backbones = {'model': open_backbone(path, **open_one)}
    if backbones['model'].architecture.core != 'identity':
        backbones['image encoder'] = open_backbone(path, tap='encoder', **open_one)
    backbones['random weights'] = open_backbone(path, random_seed=seed, precision=precision)
    settings = {'task': 'demo', 'model': backbones['model'].describe(), 'seed': seed}
    settings['protocol'] = {
        'clips': [NUM_TRAIN, NUM_HELD_OUT, NUM_FRAMES], 'noise': [NOISE_TRAIN, NOISE_HELD_OUT, NOISE_FRAMES],
        'propagated': [NUM_PROPAGATED, PROPAGATED_FRAMES, RADIUS], 'width': demo_readouts.WIDTH,
        'schedule': dataclasses.asdict(demo_readouts.SCHEDULE), 'version': VERSION,
    }  # fmt: skip
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    size = demo_readouts.GRID * backbones['model'].patch_size
    found = {}
    with run_lock(folder), StopRequest() as stop:
        stop.current = 'a batch'
        check = functools.partial(stop.check, 'what is finished is kept')
        clips = Clips(clips or os.path.join(folder, 'clips'), size, progress=progress, check=check)
        for name, backbone in backbones.items():
            part = os.path.join(folder, f'{name.replace(" ", "_")}.json')
            found[name] = results.read_json(part)
            if found[name] is None:
                pictured = os.path.join(folder, 'pictures') if name == 'model' else None
                found[name] = probe(
                    backbone, clips, seed=seed, pictured=pictured, name=name, progress=progress, check=check
                )
                results.write_json(part, found[name])
    found = settings | {
        'models': {name: backbone.describe() for name, backbone in backbones.items()},
        'results': found,
        'seconds': round(time.monotonic() - start),
        'version': version(),
    }
    canvas.write_bytes(os.path.join(folder, results.ROW), results.markdown(*table(found['results'])).encode())
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


class Clips:
    """The clips of all tasks, `size` pixels on a side; those that are not in the folder yet are rendered."""

    def __init__(self, folder, size, *, progress, check=lambda: None):
        self.size = size
        bar = progress.add_task('rendering clips', total=NUM_TRAIN + NUM_HELD_OUT + NUM_PROPAGATED)

        def rendered(name, count, seed, num_frames, before):
            def note(done, _total):
                progress.update(bar, completed=before + done)
                check()

            # Clips of another size, which a model with other patches needs, lie beside these.
            place = os.path.join(folder, f'{size}_pixels', name)
            return DemoClips(place, count, seed=seed, num_frames=num_frames, size=size, progress=note)

        self.train = rendered('train', NUM_TRAIN, SEED, NUM_FRAMES, 0)
        self.held_out = rendered('held_out', NUM_HELD_OUT, SEED + 1, NUM_FRAMES, NUM_TRAIN)
        self.long = rendered('long', NUM_PROPAGATED, SEED + 2, PROPAGATED_FRAMES, NUM_TRAIN + NUM_HELD_OUT)
        progress.update(bar, completed=NUM_TRAIN + NUM_HELD_OUT + NUM_PROPAGATED)
        self.noise = NoiseSquares(NOISE_TRAIN, SEED, NOISE_FRAMES, size)
        self.noise_held_out = NoiseSquares(NOISE_HELD_OUT, SEED + 1, NOISE_FRAMES, size)


def probe(backbone, clips, *, seed, pictured, name, progress, check=lambda: None):
    """{task: {'metric', 'value', 'higher_is_better', 'scores'}} of one backbone; pictured: a folder for pictures."""
    read = (clips.train, clips.held_out, clips.noise, clips.noise_held_out, clips.long, clips.long)
    bar = progress.add_task(name, total=sum(len(source) for source in read))
    found = {}

    def done(count):
        progress.advance(bar, count)
        check()

    def note(task_name, metric, higher_is_better, scores, drawn):
        value = {'metric': metric, 'value': scores[metric], 'higher_is_better': higher_is_better, 'scores': scores}
        found[task_name] = value
        for index, picture in enumerate(drawn if pictured else ()):
            os.makedirs(pictured, exist_ok=True)
            canvas.write_png(os.path.join(pictured, f'{task_name.replace(" ", "_")}_{index}.png'), picture)
        check()

    train = demo_readouts.Data.of(backbone, clips.train, done=done)
    held_out = demo_readouts.Data.of(backbone, clips.held_out, like=train, done=done)
    for task_name, (read_out, metric, higher_is_better) in read_outs(seed).items():
        note(task_name, metric, higher_is_better, *read_out(train, held_out))
    train = demo_readouts.Data.of(backbone, clips.noise, done=done)
    held_out = demo_readouts.Data.of(backbone, clips.noise_held_out, like=train, done=done)
    note('noise square', 'miou', True, *demo_readouts.noise_square(train, held_out))
    settings = propagation.Settings((2 * clips.size, 2 * clips.size), radius=RADIUS)
    for task_name, videos, task, metric in (
        ('masks', DemoMasks(clips.long), propagation.ObjectMasks(settings), 'J&F'),
        # A tenth of an object is less than a cell of this grid.
        ('keypoints', DemoKeypoints(clips.long), propagation.Keypoints(settings), 'pck_0.5'),
    ):
        note(task_name, metric, True, *propagate(task, videos, backbone, done))
    return found


def propagate(task, videos, backbone, done):
    """Scores of a task that carries labels through videos, and pictures of the first ones."""
    features = functools.partial(propagation.patch_features, backbone)
    records, drawn = [], []
    for index in range(len(videos)):
        record, draw = runner.propagate_one(task, videos.video(index), features, index < demo_readouts.PICTURED)
        records.append(record)
        drawn += [draw()] if draw is not None else []
        done(1)
    return task.scores(records), drawn


def table(found):
    """(header, rows) of the results of some backbones: a line a task, and their normalized average."""
    tasks = next(iter(found.values()))
    rows = [
        [f'{task}, {facts["metric"]} {"↑" if facts["higher_is_better"] else "↓"}']
        + [results.number(of_one[task]['value']) for of_one in found.values()]
        for task, facts in tasks.items()
    ]
    values = {name: {task: facts['value'] for task, facts in of_one.items()} for name, of_one in found.items()}
    if all(math.isfinite(value) for of_one in values.values() for value in of_one.values()):
        averages = summary.normalized_average(
            values, {task: facts['higher_is_better'] for task, facts in tasks.items()}
        )
        rows.append(['normalized average ↑', *(results.number(averages[name]) for name in found)])
    return ['task', *found], rows

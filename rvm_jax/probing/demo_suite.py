"""Every kind of probe on rendered clips, in minutes on a CPU: a model, its image encoder alone, and random weights.

Features are read out linearly (`demo_tasks`), masks and keypoints propagated as in the public benchmarks. Sizes are
ours, and the figures compare models with each other and with nothing else.
"""

import functools
import math
import os
import time

from rvm_jax.probing import benchmark, demo_tasks, results
from rvm_jax.probing.backbones import open_backbone
from rvm_jax.probing.datasets.demo import DemoClips, DemoKeypoints, DemoMasks, NoiseSquares
from rvm_jax.probing.metrics import summary
from rvm_jax.probing.tasks import propagation
from rvm_jax.visualization import canvas

VERSION = 1  # raise it when the same settings begin to give other scores
SEED = 1000  # of the clips; the videos of `rvm demo` have other seeds
NUM_TRAIN, NUM_HELD_OUT, NUM_FRAMES = 4096, 512, 8
NOISE_TRAIN, NOISE_HELD_OUT, NOISE_FRAMES = 256, 64, 16
NUM_PROPAGATED, PROPAGATED_FRAMES, RADIUS = 32, 24, 8
LINEAR = {  # task -> readout, metric, whether higher is better
    'motion': (demo_tasks.motion, 'top1', True),
    'camera': (demo_tasks.camera, 'share_of_motion', False),
    'points': (demo_tasks.points, 'share_of_motion', False),
    'boxes': (demo_tasks.boxes, 'share_of_motion', False),
    'depth': (demo_tasks.depth, 'abs_rel', False),
}


def run_demo(path, folder, *, step=None, seed=0, precision='float32', progress):
    """What goes into results.json, with {backbone: {task: {'metric', 'value', ...}}} as 'results'.

    Each backbone's part is kept as soon as it is done. Raises UserError for a folder of another probe.
    """
    open_one = {'step': step, 'precision': precision}
    backbones = {'model': open_backbone(path, **open_one)}
    if backbones['model'].architecture.core != 'identity':
        backbones['image encoder'] = open_backbone(path, tap='encoder', **open_one)
    backbones['random weights'] = open_backbone(path, random_seed=seed, precision=precision)
    settings = {'task': 'demo', 'model': backbones['model'].describe(), 'seed': seed, 'precision': precision}
    settings['protocol'] = {
        'clips': [NUM_TRAIN, NUM_HELD_OUT, NUM_FRAMES], 'noise': [NOISE_TRAIN, NOISE_HELD_OUT, NOISE_FRAMES],
        'propagated': [NUM_PROPAGATED, PROPAGATED_FRAMES, RADIUS], 'version': VERSION,
    }  # fmt: skip
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    clips = Clips(os.path.join(folder, 'clips'), demo_tasks.GRID * backbones['model'].patch_size)
    found = {}
    for name, backbone in backbones.items():
        part = os.path.join(folder, f'{name.replace(" ", "_")}.json')
        found[name] = results.read_json(part)
        if found[name] is None:
            pictured = os.path.join(folder, 'pictures') if name == 'model' else None
            found[name] = probe(backbone, clips, pictured=pictured, name=name, progress=progress)
            results.write_json(part, found[name])
    found = settings | {'results': found, 'seconds': round(time.monotonic() - start), 'version': results.version()}
    canvas.write_bytes(os.path.join(folder, results.ROW), results.markdown(*table(found['results'])).encode())
    results.write_json(os.path.join(folder, results.RESULTS), found)
    return found


class Clips:
    """The rendered clips of all tasks, `size` pixels on a side."""

    def __init__(self, folder, size):
        def rendered(name, count, number, num_frames):
            return DemoClips(os.path.join(folder, name), count, seed=SEED + number, num_frames=num_frames, size=size)

        self.size = size
        self.train, self.held_out = (
            rendered('train', NUM_TRAIN, 0, NUM_FRAMES),
            rendered('held_out', NUM_HELD_OUT, 1, NUM_FRAMES),
        )
        self.long = rendered('long', NUM_PROPAGATED, 2, PROPAGATED_FRAMES)
        self.noise = NoiseSquares(NOISE_TRAIN, SEED, NOISE_FRAMES, size)
        self.noise_held_out = NoiseSquares(NOISE_HELD_OUT, SEED + 1, NOISE_FRAMES, size)


def probe(backbone, clips, *, pictured, name, progress):
    """{task: {'metric', 'value', 'higher_is_better', 'scores'}} of one backbone; pictured: a folder for pictures."""
    bar = progress.add_task(name, total=len(LINEAR) + 4)
    found = {}

    def note(task_name, metric, higher_is_better, scores, drawn):
        value = {'metric': metric, 'value': scores[metric], 'higher_is_better': higher_is_better, 'scores': scores}
        found[task_name] = value
        for index, picture in enumerate(drawn if pictured else ()):
            os.makedirs(pictured, exist_ok=True)
            canvas.write_png(os.path.join(pictured, f'{task_name.replace(" ", "_")}_{index}.png'), picture)
        progress.advance(bar)

    scenes = demo_tasks.Data.of(backbone, clips.train), demo_tasks.Data.of(backbone, clips.held_out)
    progress.advance(bar)
    for task_name, (read_out, metric, higher_is_better) in LINEAR.items():
        note(task_name, metric, higher_is_better, *read_out(*scenes))
    del scenes
    squares = demo_tasks.Data.of(backbone, clips.noise), demo_tasks.Data.of(backbone, clips.noise_held_out)
    note('noise square', 'miou', True, *demo_tasks.noise_square(*squares))
    settings = propagation.Settings((2 * clips.size, 2 * clips.size), radius=RADIUS)
    features = functools.partial(propagation.patch_features, backbone)
    for task_name, videos, task, metric in (
        ('masks', DemoMasks(clips.long), propagation.ObjectMasks(settings), 'J&F'),
        # A tenth of an object is less than a cell of this grid.
        ('keypoints', DemoKeypoints(clips.long), propagation.Keypoints(settings), 'pck_0.5'),
    ):
        scores = propagation.evaluate(task, (videos.video(index) for index in range(len(videos))), features)
        drawn = (
            benchmark.propagated_picture(task, videos.video(index), features) for index in range(demo_tasks.PICTURED)
        )
        note(task_name, metric, True, scores, drawn)
    return found


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

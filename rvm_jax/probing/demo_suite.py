"""Every kind of probe on rendered clips, in minutes on a CPU: a model, its image encoder alone, and random weights.

Sizes and schedule are ours, small enough for features of 64 channels; what is measured, and how, is the same code as
for the public benchmarks. The figures compare models with each other and with nothing else.
"""

import dataclasses
import os
import time

from rvm_jax.data.sources.synthetic_scenes import CLASSES
from rvm_jax.probing import batches, benchmark, pictures, results, run
from rvm_jax.probing.backbones import open_backbone
from rvm_jax.probing.datasets.demo import DemoClips, DemoKeypoints, DemoMasks, NoiseSquares
from rvm_jax.probing.metrics import summary
from rvm_jax.probing.tasks import propagation
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.camera_motion import CameraMotion
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.probing.tasks.segmentation import PatchSegmentation
from rvm_jax.visualization import canvas

GRID = 8  # patches on a side of a clip
SEED = 1000  # of the clips; the videos of `rvm demo` have other seeds
NUM_TRAIN, NUM_HELD_OUT, NUM_FRAMES = 1024, 256, 8
NOISE_TRAIN, NOISE_HELD_OUT = 256, 64
FIRST_FRAME = 4  # in which the noise square is looked for, as in the paper's figure
NUM_PROPAGATED, PROPAGATED_FRAMES, RADIUS = 32, 24, 8
SCHEDULE = run.Schedule(steps=1000, peak_lr=1e-3)
SIZES = {'channels': 64, 'heads': 4}
PICTURED = 2  # clips of each task


def run_demo(path, folder, *, step=None, seed=0, precision='float32', progress):
    """What goes into results.json, with {backbone: {task: {'metric', 'value', ...}}} as 'results'.

    Each backbone's part is kept as soon as it is done. Raises UserError for a folder of another probe.
    """
    open_one = {'step': step, 'precision': precision}
    backbones = {'model': open_backbone(path, **open_one)}
    if backbones['model'].architecture.core != 'identity':
        backbones['image encoder'] = open_backbone(path, tap='encoder', **open_one)
    backbones['random weights'] = open_backbone(path, random_seed=seed, precision=precision)
    settings = {'task': 'demo', 'model': backbones['model'].describe(), 'seed': seed}
    settings['schedule'] = dataclasses.asdict(SCHEDULE)
    found = results.open_folder(folder, settings)
    if found is not None:
        return found
    start = time.monotonic()
    clips = Clips(os.path.join(folder, 'clips'), GRID * backbones['model'].patch_size)
    found = {}
    for name, backbone in backbones.items():
        part = os.path.join(folder, f'{name.replace(" ", "_")}.json')
        found[name] = results.read_json(part)
        if found[name] is None:
            pictured = os.path.join(folder, 'pictures') if name == 'model' else None
            found[name] = probe(backbone, clips, seed=seed, pictured=pictured, name=name, progress=progress)
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
        self.noise = NoiseSquares(NOISE_TRAIN, SEED, 2 * NUM_FRAMES, size)
        self.noise_held_out = NoiseSquares(NOISE_HELD_OUT, SEED + 1, 2 * NUM_FRAMES, size)


def probe(backbone, clips, *, seed, pictured, name, progress):
    """{task: {'metric', 'value', 'higher_is_better', 'scores'}} of one backbone; pictured: a folder for pictures."""
    of_patches = PatchSegmentation(2, backbone.num_prefix_tokens, (GRID, GRID), FIRST_FRAME)
    trained = {
        'motion': Recognition(len(CLASSES), **SIZES),
        'camera': CameraMotion(**SIZES),
        'boxes': Boxes(query_width=64, **SIZES),
        'points': Points(query_width=64, **SIZES),
        'depth': Depth(image_size=clips.size, streaming=True, **SIZES),
        'noise square': of_patches,
    }
    settings = propagation.Settings((2 * clips.size, 2 * clips.size), radius=RADIUS)
    propagated = {
        'masks': (DemoMasks(clips.long), propagation.ObjectMasks(settings)),
        'keypoints': (DemoKeypoints(clips.long), propagation.Keypoints(settings)),
    }
    bar = progress.add_task(name, total=len(trained) + len(propagated) + 1)
    scenes = batches.Kept(backbone, clips.train), batches.Kept(backbone, clips.held_out), clips.held_out
    noise = batches.Kept(backbone, clips.noise), batches.Kept(backbone, clips.noise_held_out), clips.noise_held_out
    progress.advance(bar)
    found = {}
    for task_name, task in trained.items():
        train, held_out, source = noise if task is of_patches else scenes
        readout, _ = run.train_readout(task, train, SCHEDULE, seed=seed)
        scores, predictions, _ = run.evaluate_readout(task, held_out, readout, batch_size=SCHEDULE.batch_size)
        found[task_name] = _result(task, scores)
        for index in range(PICTURED if pictured else 0):
            example = source.example(index)
            drawn = pictures.picture(example['video_THWC'], predictions[index], example, CLASSES)
            _write(pictured, task_name, index, drawn)
        progress.advance(bar)
    for task_name, (videos, task) in propagated.items():

        def features(frames):
            return propagation.patch_features(backbone, frames)

        scores = propagation.evaluate(task, (videos.video(index) for index in range(len(videos))), features)
        found[task_name] = _result(task, scores)
        for index in range(PICTURED if pictured else 0):
            _write(pictured, task_name, index, benchmark.propagated_picture(task, videos.video(index), features))
        progress.advance(bar)
    return found


def table(found):
    """(header, rows) of the results of some backbones: a line a task, and their normalized average."""
    tasks = next(iter(found.values()))
    rows = [
        [f'{task}, {facts["metric"]} {"↑" if facts["higher_is_better"] else "↓"}']
        + [results.number(of_one[task]['value']) for of_one in found.values()]
        for task, facts in tasks.items()
    ]
    averages = summary.normalized_average(
        {name: {task: facts['value'] for task, facts in of_one.items()} for name, of_one in found.items()},
        {task: facts['higher_is_better'] for task, facts in tasks.items()},
    )
    rows.append(['normalized average ↑', *(results.number(averages[name]) for name in found)])
    return ['task', *found], rows


def _result(task, scores):
    return {
        'metric': task.metric, 'value': scores[task.metric], 'higher_is_better': task.higher_is_better, 'scores': scores
    }  # fmt: skip


def _write(folder, task_name, index, picture):
    if picture is not None:
        os.makedirs(folder, exist_ok=True)
        canvas.write_png(os.path.join(folder, f'{task_name.replace(" ", "_")}_{index}.png'), picture)

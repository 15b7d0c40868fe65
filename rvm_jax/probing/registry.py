"""Every public benchmark in one table, one row each; and one of them opened. `demo_suite` has our own tasks.

Settings are those of RVM (section 11 and Table 7) where it gives them, else those of the work it follows: 4DS
(arXiv 2412.15212) and DIF (arXiv 2502.07001); streaming readouts are those of arXiv 2605.19137. What none of them
publishes is our choice, and the docstring of the dataset or the task says so.

A row names its classes as 'module:Class', and they are imported when the benchmark is opened: the commands read this
table for their help, which must not start JAX.
"""

import collections
import dataclasses
import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rvm_jax import plugins
from rvm_jax.errors import UserError
from rvm_jax.probing import settings

if TYPE_CHECKING:
    from rvm_jax.probing.train_readout import Schedule

# Where a name that starts with a dot is.
DATASETS, TASKS, READOUTS = 'rvm_jax.probing.datasets', 'rvm_jax.probing.tasks', 'rvm_jax.probing.readouts'
RECOGNITION, WIDE = '.recognition:Recognition', {'channels': 1024, 'heads': 16}
LEAST_STEPS = 100  # of a schedule that follows the number of videos
ATTENTIVE = 'attentive'  # the readout of every trained benchmark: a module that learns by steps
POOLED = {'linear': '.pooled:Linear', 'knn': '.pooled:NearestClips'}  # beside it, if the answer is a class


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of a task, and how papers print it: factor * value, with so many decimals."""

    name: str  # among the scores of the task
    title: str
    unit: str = ''
    factor: float = 1
    decimals: int = 3
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Title and unit, as the head of a column."""
        return f'{self.title} ({self.unit})' if self.unit else self.title

    def text(self, value: float) -> str:
        """A value as papers print it."""
        return f'{self.factor * value:.{self.decimals}f}'


TOP1 = Metric('top1', 'top-1', '%', factor=100, decimals=1)
MEAN_IOU = Metric('mean_iou', 'mIoU', '%', factor=100, decimals=1)  # over boxes
MIOU = Metric('miou', 'mIoU', '%', factor=100, decimals=1)  # over classes of pixels
AVERAGE_JACCARD = Metric('average_jaccard', 'AJ', '%', factor=100, decimals=1)
J_AND_F = Metric('J&F', 'J&F', '%', factor=100, decimals=1)
STABILITY = Metric('stability', 'relative J&F')
PCK = Metric('pck_0.1', 'PCK@0.1', '%', decimals=1)  # a percentage already
ABS_REL = Metric('abs_rel', 'AbsRel × 10', factor=10, decimals=2, higher_is_better=False)
EPE = Metric('epe', 'EPE', higher_is_better=False)
RPE = Metric('rpe_tr', 'RPE', 'mm', decimals=2, higher_is_better=False)
# Only the suites of rendered clips have these.
PCK_HALF = Metric('pck_0.5', 'PCK@0.5', '%', decimals=1)
SHARE_OF_MOTION = Metric('share_of_motion', 'share of motion', higher_is_better=False)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Our own tasks on rendered clips, see `demo_suite`: how many clips, and what is computed on them."""

    name: str
    train: int  # clips for the readouts
    held_out: int
    propagated: int  # clips for masks and keypoints; without any, these tasks are left out
    attentive: bool  # also the readout that is trained by gradient steps
    baselines: bool  # also the image encoder alone, and random weights


SUITES = {
    suite.name: suite
    for suite in (
        Suite('demo', 4096, 512, 32, attentive=True, baselines=True),
        Suite('quick', 2048, 512, 0, attentive=False, baselines=False),
    )
}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One row. `interfaces` says what its classes must have."""

    title: str  # its column in a table
    metric: Metric
    dataset: str | type
    task: str | type
    task_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # where they differ from the task's own
    schedule: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)  # likewise; None: nothing is trained
    train_dataset: str | type | None = None  # if training reads another dataset than evaluation
    has_one_readout: bool = False  # either a streaming or an offline one, without a choice
    readouts: tuple[str, ...] = (ATTENTIVE,)  # those of a probe that does not choose
    passes: int | None = None  # over the videos for training; the steps of the schedule are then the most

    @property
    def is_trained(self) -> bool:
        """Whether a readout is trained; else labels are propagated."""
        return self.schedule is not None

    @property
    def all_readouts(self) -> tuple[str, ...]:
        """The readouts that a probe may choose."""
        return (ATTENTIVE,) * self.is_trained + tuple(POOLED) * (self.task == RECOGNITION)

    def make_task(self) -> Any:
        """The task with its published settings."""
        return _load(self.task, TASKS)(**self.task_settings)

    def make_schedule(self) -> 'Schedule':
        """The published schedule of its readout."""
        from rvm_jax.probing.train_readout import Schedule

        return Schedule(**(self.schedule or {}))

    def datasets(self) -> dict[str, Callable]:
        """{'evaluated': class, 'trained': class}, the second one only if a readout is trained."""
        found = {'evaluated': _load(self.dataset, DATASETS)}
        return found | {'trained': _load(self.train_dataset or self.dataset, DATASETS)} if self.is_trained else found


BENCHMARKS = {  # in the order of the columns of a table
    'folder': Benchmark(
        'own videos', TOP1, '.own_videos:OwnVideos', RECOGNITION, {'num_classes': 0, 'channels': 256, 'heads': 4},
        schedule={'steps': 2000, 'batch_size': 8, 'peak_lr': 1e-3, 'warmup': 20},
        readouts=(ATTENTIVE, *POOLED), passes=30,
    ),
    'ssv2': Benchmark('SSv2', TOP1, '.ssv2:SSv2', RECOGNITION, {'num_classes': 174}),
    'kinetics400': Benchmark('Kinetics-400', TOP1, '.kinetics:Kinetics', RECOGNITION, {'num_classes': 400, **WIDE}),
    'kinetics700': Benchmark('Kinetics-700', TOP1, '.kinetics:Kinetics', RECOGNITION, {'num_classes': 700, **WIDE}),
    'ucf101': Benchmark(
        'UCF101', TOP1, '.ucf101:UCF101', RECOGNITION, {'num_classes': 101, **WIDE}, schedule={'steps': 10_000}
    ),
    'hmdb51': Benchmark(
        'HMDB51', TOP1, '.hmdb51:HMDB51', RECOGNITION, {'num_classes': 51, **WIDE}, schedule={'steps': 5_000}
    ),
    'imagenet': Benchmark(
        'ImageNet', TOP1, '.imagenet:ImageNet', RECOGNITION, {'num_classes': 1000},
        schedule={'steps': 200_182, 'batch_size': 64},
    ),
    'places365': Benchmark(
        'Places365', TOP1, '.places365:Places365', RECOGNITION, {'num_classes': 365},
        schedule={'steps': 10_000, 'batch_size': 512},
    ),
    'inaturalist2018': Benchmark(
        'iNaturalist 2018', TOP1, '.inaturalist:INaturalist', RECOGNITION, {'num_classes': 8142},
        schedule={'steps': 10_000, 'batch_size': 512},
    ),
    'waymo': Benchmark('Waymo', MEAN_IOU, '.waymo:Waymo', '.boxes:Boxes'),
    'perception_test': Benchmark(
        'Perception Test', AVERAGE_JACCARD, '.perception_test:PerceptionTest', '.points:Points',
        train_dataset='.movi_e:MoviE',
    ),
    'scannet': Benchmark('ScanNet', ABS_REL, '.scannet:ScanNet', '.depth:Depth'),
    'realestate10k': Benchmark(
        'RealEstate10K', EPE, '.realestate10k:RealEstate10K', '.pose:ClipPose', has_one_readout=True
    ),
    'nuscenes': Benchmark('nuScenes', RPE, '.nuscenes:NuScenes', '.pose:FramePose', has_one_readout=True),
    'davis': Benchmark('DAVIS', J_AND_F, '.davis:Davis', '.propagation:ObjectMasks', schedule=None),
    'davis_stability': Benchmark('DAVIS, long', STABILITY, '.davis:Davis', '.propagation:Stability', schedule=None),
    'jhmdb': Benchmark('JHMDB', PCK, '.jhmdb:Jhmdb', '.propagation:Keypoints', schedule=None),
    'vip': Benchmark('VIP', MIOU, '.vip:Vip', '.propagation:PartMasks', schedule=None),
}  # fmt: skip


def find_metric(name: str) -> Metric:
    """The Metric of this name; one with the plain name and three decimals if no benchmark has it."""
    known = [*(benchmark.metric for benchmark in BENCHMARKS.values()), PCK_HALF, SHARE_OF_MOTION]
    return next((metric for metric in known if metric.name == name), Metric(name, name))


def column(task: str, readout: str) -> str:
    """The name of a column of a table: the task, with the readout if it is one of POOLED."""
    return task if readout == ATTENTIVE else f'{task} {readout}'


def readout_title(readout: str) -> str:
    """What papers call a readout."""
    return {'knn': 'kNN'}.get(readout, readout)


def title(name: str) -> str:
    """What papers call a column; a task of the demo has only its name."""
    task, _, readout = name.partition(' ')
    if task not in BENCHMARKS:
        return name
    return f'{BENCHMARKS[task].title}, {readout_title(readout)}' if readout else BENCHMARKS[task].title


@dataclasses.dataclass(frozen=True)
class OpenBenchmark:
    """What `runner` runs. train and schedule are None if nothing is trained; sources are as in `interfaces`."""

    name: str
    metric: Metric
    task: Any
    evaluated: Any
    train: Any | None
    schedule: 'Schedule | None'
    data: dict[str, dict]  # {'evaluated': settings of the dataset, 'trained': the same}
    roots: dict[str, str]  # folders of the datasets
    readouts: dict[str, Any]  # {name: of `readouts.pooled`, or None for the attentive one}; {} if nothing is trained


def open_benchmark(
    name: str,
    root: str | None,
    train_root: str | None = None,
    given: Iterable[tuple[str, str]] = (),
    readouts: Sequence[str] | None = None,
) -> OpenBenchmark:
    """Open a benchmark, or one of one's own at MODULE:NAME, whose dataset is at root.

    train_root is the dataset for training if it is another one. given is [(key, text), ...]: key is task.NAME,
    data.NAME, schedule.NAME, linear.NAME or knn.NAME. readouts are some of `Benchmark.all_readouts`. Raises UserError
    for files that are missing and for settings that do not exist.
    """
    is_own = plugins.is_name(name)
    if not is_own and name not in BENCHMARKS:
        fix = f'take {", ".join((*SUITES, *BENCHMARKS))}, or your own as MODULE:NAME'
        raise UserError(f'--task {name}', 'is not a task', fix)
    if root is None:
        raise UserError(f'--task {name}', 'needs its dataset', 'give its folder with --data')
    benchmark = plugins.load(name, plugins.TASK) if is_own else BENCHMARKS[name]
    if train_root is not None and not benchmark.is_trained:
        raise UserError(f'--task {name} with --train-data', 'does not train a readout', 'leave --train-data out')
    wanted = _choose_readouts(name, benchmark, readouts)
    groups = _by_group(given, _group_names(benchmark, wanted))
    task = _make_task(benchmark, groups['task'])
    pooled = {one: _replaced(open_pooled(one), groups[one], one) for one in wanted if one in POOLED}
    schedule = _replaced(benchmark.make_schedule(), groups['schedule'], 'schedule') if benchmark.is_trained else None
    datasets = benchmark.datasets()
    chosen = _dataset_settings(datasets, groups['data'])
    _check_size(task, chosen)
    roots, splits = {'evaluated': root, 'trained': train_root or root}, {'evaluated': 'val', 'trained': 'train'}
    sources = {part: dataset(roots[part], splits[part], **chosen[part]) for part, dataset in datasets.items()}
    if hasattr(task, 'fitted'):
        task = task.fitted(sources['evaluated'], sources['trained'])
    if schedule is not None and benchmark.passes and 'steps' not in groups['schedule']:
        schedule = _scaled(schedule, benchmark.passes * len(sources['trained']))
    data = {
        part: {'dataset': dataset.__name__, 'split': splits[part], 'examples': len(sources[part]), **chosen[part]}
        | getattr(sources[part], 'facts', {})
        for part, dataset in datasets.items()
    }
    return OpenBenchmark(
        name, benchmark.metric, task, sources['evaluated'], sources.get('trained'), schedule, data,
        {part: os.path.abspath(roots[part]) for part in datasets}, {one: pooled.get(one) for one in wanted},
    )  # fmt: skip


def open_pooled(name: str) -> Any:
    """The readout of this name in POOLED, with its default settings."""
    return _load(POOLED[name], READOUTS)()


def _choose_readouts(name, benchmark, readouts):
    """The readouts of a probe, each once. UserError for one that the benchmark does not have."""
    for readout in readouts or ():
        if readout not in benchmark.all_readouts:
            has = f'take {", ".join(benchmark.all_readouts)}' if benchmark.all_readouts else 'leave it out'
            raise UserError(f'--readout {readout}', f'is not a readout of {name}', has)
    return tuple(dict.fromkeys(readouts or (benchmark.readouts if benchmark.is_trained else ())))


def _group_names(benchmark, readouts):
    """The groups of settings that a probe has."""
    if not benchmark.is_trained:
        return 'task', 'data'
    trained = ('task', 'data', 'schedule') if ATTENTIVE in readouts else ('data',)
    return *trained, *(readout for readout in readouts if readout in POOLED)


def _scaled(schedule, clips):
    """The schedule with as many steps as these clips need, but no more than it has."""
    steps = min(max(math.ceil(clips / schedule.batch_size), LEAST_STEPS), schedule.steps)
    return dataclasses.replace(schedule, steps=steps, warmup=min(schedule.warmup, steps - 1))


def _load(name, package):
    """The class that 'module:Class' names, a module that starts with a dot is in the package; or that very class."""
    if not isinstance(name, str):
        return name
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module, package), attribute)


def _make_task(benchmark, texts):
    task = _replaced(benchmark.make_task(), texts, 'task')
    for key in sorted(texts.keys() & set(getattr(task, 'unused', ()))):
        reason = 'the chosen readout does not have this setting'
        raise UserError(f'--set task.{key}={texts[key]}', reason, 'leave it out, or choose another readout')
    return task


def _check_size(task, chosen):
    """Raise UserError if a task that predicts every pixel gets frames of another size."""
    sizes = {one['image_size'] for one in chosen.values() if 'image_size' in one}
    if hasattr(task, 'image_size') and sizes != {task.image_size}:
        reason = f'frames of the data have {" and ".join(map(str, sorted(sizes)))} pixels a side'
        raise UserError(f'task.image_size={task.image_size}', reason, 'set both data.image_size and task.image_size')


def _by_group(given, groups):
    """{group: {name: text}} of settings; UserError for one of another group, or one that is given twice."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for key, text in given:
        group, _, name = key.partition('.')
        if group not in groups:
            raise UserError(f'--set {key}={text}', 'is not a setting', f'settings begin {", ".join(groups)}')
        if name in found[group]:
            raise UserError(f'--set {key}={text}', f'was set to {found[group][name]} before', 'set it once')
        found[group][name] = text
    return found


def _replaced(instance, texts, prefix):
    return dataclasses.replace(instance, **settings.resolve(instance, texts, prefix))


def _dataset_settings(datasets, texts):
    """{part: all settings of its dataset}; a text goes to every dataset that has this setting."""
    known = {part: settings.resolve(dataset, {}, 'data') for part, dataset in datasets.items()}
    taken = {name for part in known for name in known[part]}
    unknown = {name: text for name, text in texts.items() if name not in taken}  # `resolve` refuses these
    return {
        part: settings.resolve(
            dataset, {name: text for name, text in texts.items() if name in known[part]} | unknown, 'data'
        )
        for part, dataset in datasets.items()
    }

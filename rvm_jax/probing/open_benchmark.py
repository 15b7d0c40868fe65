"""A benchmark made ready to run: its datasets opened, its settings as published or as the command line wants them."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from rvm_jax.errors import UserError
from rvm_jax.probing import settings
from rvm_jax.probing.registry import BENCHMARKS, Readout
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.probing.train_readout import Schedule


@dataclasses.dataclass(frozen=True)
class Setup:
    """What runs. train and schedule are None where nothing is trained; sources are as in `batches`."""

    name: str
    task: Any
    evaluated: Sequence
    train: Sequence | None
    schedule: Schedule | None
    data: dict  # {'evaluated': its settings, 'trained': the same}
    roots: dict  # where the datasets lie


def open_setup(name, root, train_root=None, given=()):
    """The Setup of a benchmark whose dataset is at root, the one for training at train_root if it is another.

    given is [(key, text), ...]: key is task.NAME, data.NAME or schedule.NAME. Raises UserError for what is missing on
    disk, and for settings that there are not.
    """
    if name not in BENCHMARKS:
        raise UserError(f'--task {name}', 'there is no such task', f'take demo, {", ".join(BENCHMARKS)}')
    if root is None:
        raise UserError(f'--task {name}', 'needs its dataset', 'say with --data where it lies')
    benchmark = BENCHMARKS[name]
    is_trained = isinstance(benchmark, Readout)
    groups = _by_group(given, ('task', 'data', 'schedule') if is_trained else ('task', 'data'))
    if train_root is not None and not is_trained:
        raise UserError(f'--task {name} with --train-data', 'it trains nothing', 'leave --train-data out')
    task = _replaced(benchmark.task, groups['task'], 'task')
    for key in sorted(groups['task'].keys() & set(getattr(task, 'unused', ()))):
        reason = 'the chosen readout has no such setting'
        raise UserError(f'--set task.{key}={groups["task"][key]}', reason, 'leave it out, or choose another readout')
    schedule = _replaced(benchmark.schedule, groups['schedule'], 'schedule') if is_trained else None
    datasets = {'evaluated': (benchmark.dataset, root, 'val')}
    if is_trained:
        datasets['trained'] = (benchmark.train_dataset or benchmark.dataset, train_root or root, 'train')
    chosen = _dataset_settings({part: dataset for part, (dataset, _, _) in datasets.items()}, groups['data'])
    _check_size(task, chosen)
    sources = {part: dataset(at, split, **chosen[part]) for part, (dataset, at, split) in datasets.items()}
    if isinstance(task, Recognition):
        if sources['trained'].classes != sources['evaluated'].classes:
            reason = 'its classes are not those of --data, or in another order'
            raise UserError('--train-data', reason, 'name two parts of one dataset')
        task.check(sources['evaluated'])
    data = {
        part: {'dataset': dataset.__name__, 'split': split, 'examples': len(sources[part]), **chosen[part]}
        for part, (dataset, _, split) in datasets.items()
    }
    roots = {part: os.path.abspath(at) for part, (_, at, _) in datasets.items()}
    return Setup(name, task, sources['evaluated'], sources.get('trained'), schedule, data, roots)


def _check_size(task, chosen):
    """Raise UserError where a task that gives a value for each pixel is asked of frames of another size."""
    sizes = {one['image_size'] for one in chosen.values() if 'image_size' in one}
    if hasattr(task, 'image_size') and sizes != {task.image_size}:
        reason = f'frames of the data have {" and ".join(map(str, sorted(sizes)))} pixels a side'
        raise UserError(f'task.image_size={task.image_size}', reason, 'set data.image_size and task.image_size')


def _by_group(given, groups):
    """{group: {name: text}} of settings; UserError for one of another group, or that is given twice."""
    found = {group: {} for group in groups}
    for key, text in given:
        group, _, name = key.partition('.')
        if group not in found:
            raise UserError(f'--set {key}={text}', 'there are no such settings', f'they begin {", ".join(groups)}')
        if name in found[group]:
            raise UserError(f'--set {key}={text}', f'it was set to {found[group][name]} before', 'set it once')
        found[group][name] = text
    return found


def _replaced(instance, texts, prefix):
    return dataclasses.replace(instance, **settings.resolve(instance, texts, prefix))


def _dataset_settings(datasets, texts):
    """{part: all settings of its dataset}; a text goes to each that has such a setting."""
    known = {part: settings.resolve(dataset, {}, 'data') for part, dataset in datasets.items()}
    taken = {name for part in known for name in known[part]}
    for_all = {name: text for name, text in texts.items() if name not in taken}  # these are refused
    return {
        part: settings.resolve(
            dataset, {name: text for name, text in texts.items() if name in known[part]} | for_all, 'data'
        )
        for part, dataset in datasets.items()
    }

"""The folder of a probe: written by `rvm probe`, and read again as scores that can be compared.

It holds settings.json from the start and results.json at the end, a row for a paper's table, curves and pictures.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.errors import UserError, printable
from rvm_jax.probing.registry import ATTENTIVE, BENCHMARKS, column
from rvm_jax.storage import atomic, files

RESULTS, SETTINGS, ROW, CURVE = 'results.json', 'settings.json', 'table.md', 'curve.png'
SPLIT, POOLED = 'split.csv', 'pooled.json'  # which of one's own videos are held out; scores of finished readouts
Path = str | os.PathLike


def open_folder(folder: Path, settings: Mapping[str, Any]) -> Any | None:
    """Create the folder of a probe and write its settings; a folder with the same settings is resumed.

    Returns the results if they are already there, else None. Raises UserError if the folder belongs to another probe.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, SETTINGS)
    settings = json.loads(json.dumps(settings))  # as they are read back: tuples become lists
    before = read_json(path)
    if before is not None and not isinstance(before, dict):
        raise UserError(path, 'does not hold settings of a probe', 'choose another --output')
    if before is not None:
        was, now = _flat(before), _flat(settings)
        different = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        if different:
            key = different[0]
            raise UserError(
                folder, f'holds another probe: its {key} is {was.get(key)}, not {now.get(key)}',
                'choose another --output',
            )  # fmt: skip
    elif set(os.listdir(folder)) - {SETTINGS}:
        raise UserError(folder, 'holds other files, but not a probe', 'choose another --output')
    write_json(path, settings)
    return read_json(os.path.join(folder, RESULTS))


def read_json(path: Path) -> Any | None:
    """What a JSON file holds; None if the file does not exist. UserError if it is not JSON."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(path, f'is not JSON ({error})', 'leave it out, or probe again') from error


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON; the file appears complete or not at all."""
    atomic.write_bytes(path, (json.dumps(values, indent=2) + '\n').encode())


def by_column(task: str, found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{column of a table: its metric, value, ...} of the results of a benchmark, which may have several readouts."""
    return {column(task, readout): measured for readout, measured in found.get('readouts', {ATTENTIVE: found}).items()}


@dataclasses.dataclass(frozen=True)
class Model:
    """The model, and the depth in it, whose features a score is about."""

    path: str
    tap: str
    is_random: bool
    precision: str
    fingerprint: str | None  # of its weights; None if they are random, because every draw has another one

    def label(self, name: str, streaming: bool) -> str:
        """The name of its row in a table."""
        notes = [self.tap] * (self.tap != 'core') + [self.precision] * (self.precision != 'float32')
        notes = [f'({note})' for note in notes]
        return printable(' '.join([name, *notes, *['random weights'] * self.is_random, *['(streaming)'] * streaming]))


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of one probe. streaming is None if the task has only one kind of readout, or none."""

    folder: str
    task: str
    metric: str
    higher_is_better: bool
    value: float
    seed: int
    settings: dict  # flat; two scores of a task compare only if these are equal
    model: Model
    streaming: bool | None


def read_scores(folder: str) -> list[Score]:
    """The scores in a probe's folder. UserError if there is no finished probe in it."""
    path = os.path.join(folder, RESULTS)
    found = read_json(path)
    if found is None and os.path.exists(os.path.join(folder, SETTINGS)):
        raise UserError(folder, 'its probe is not finished', 'run its `rvm probe` command again, or leave it out')
    if not (isinstance(found, dict) and {'task', 'model', 'seed'} <= found.keys()):
        reason = 'does not hold results of a probe' if os.path.isdir(folder) else 'does not exist'
        raise UserError(folder, reason, 'name folders that `rvm probe` wrote')
    try:
        return _scores(folder, found)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f'is not as `rvm probe` writes it ({type(error).__name__}: {str(error)[:MOST_CHARACTERS]})'
        raise UserError(path, reason, 'leave it out, or probe again') from error


def _scores(folder, found):
    if 'results' not in found:
        return [
            _score(folder, found | {'protocol': {}, 'schedule': {}} | measured, task, measured, found['model'])
            for task, measured in by_column(found['task'], found).items()
        ]
    scores = []
    for backbone, of_one in found['results'].items():
        facts = found['models'][backbone]
        scores += [_score(folder, found, task, measured, facts) for task, measured in of_one.items()]
    return scores


def _score(folder, found, task, measured, facts):
    """One Score; whatever is wrong with the file is a KeyError, TypeError or ValueError."""
    protocol = dict(found.get('protocol', {}))
    streaming = protocol.pop('streaming', None)
    _check_types(task, measured, facts, found['seed'], streaming)
    settings = {'protocol': protocol, 'schedule': found.get('schedule', {}), 'data': found.get('data', {})}
    model = Model(
        path=os.path.normpath(facts['path']), tap=facts['tap'], is_random=facts['random_weights'],
        precision=facts['precision'],
        fingerprint=None if facts['random_weights'] else facts['fingerprint'],
    )  # fmt: skip
    return Score(
        folder=folder, task=task, metric=measured['metric'], higher_is_better=measured['higher_is_better'],
        value=measured['value'], seed=found['seed'], settings={'metric': measured['metric']} | _flat(settings),
        model=model, streaming=None if task in BENCHMARKS and BENCHMARKS[task].has_one_readout else streaming,
    )  # fmt: skip


def _check_types(task, measured, facts, seed, streaming):
    if not all(isinstance(text, str) for text in (task, measured['metric'], facts['tap'], facts['precision'])):
        raise TypeError('a name is not text')
    if not all(isinstance(number, (int, float)) for number in (measured['value'], seed)):
        raise TypeError('a score or seed is not a number')
    if not all(isinstance(answer, (bool, type(None))) for answer in (streaming, facts['random_weights'])):
        raise TypeError('streaming or random_weights is neither true nor false')


def _flat(values, prefix=''):
    """{'outer.inner': value} of nested dicts."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat

"""What a probe's folder says, as numbers that can be put side by side: whose they are, and how they were measured."""

import dataclasses
import os

from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.errors import UserError, printable
from rvm_jax.probing import results

ONE_READOUT = ('epe', 'rpe_tr')  # metrics of tasks that have no second kind of readout, streaming or not


@dataclasses.dataclass(frozen=True)
class Model:
    """Whose features a score is of."""

    path: str
    tap: str
    is_random: bool
    precision: str
    fingerprint: str | None  # of its weights; None where it says nothing because they are random

    def label(self, name, streaming):
        """What its row is called."""
        notes = [self.tap] * (self.tap != 'core') + [self.precision] * (self.precision != 'float32')
        notes = [f'({note})' for note in notes]
        return printable(' '.join([name, *notes, *['random weights'] * self.is_random, *['(streaming)'] * streaming]))


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of one probe. streaming is None where the task has only one kind of readout, or none."""

    folder: str
    task: str
    metric: str
    higher_is_better: bool
    value: float
    seed: int
    settings: dict  # flat: what must be the same for two scores of a task to compare
    model: Model
    streaming: bool | None


def read(folder):
    """The scores in a probe's folder. UserError if it holds no finished probe."""
    path = os.path.join(folder, results.RESULTS)
    found = results.read_json(path)
    if found is None and os.path.exists(os.path.join(folder, results.SETTINGS)):
        raise UserError(folder, 'its probe is not finished', 'run its line of `rvm probe` again, or leave it out')
    if not (isinstance(found, dict) and {'task', 'model', 'seed'} <= found.keys()):
        reason = 'holds no results of a probe' if os.path.isdir(folder) else 'there is no such folder'
        raise UserError(folder, reason, 'name folders that `rvm probe` wrote')
    try:
        return _scores(folder, found)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f'is not as `rvm probe` writes it ({type(error).__name__}: {str(error)[:MOST_CHARACTERS]})'
        raise UserError(path, reason, 'leave it out, or probe again') from error


def _scores(folder, found):
    if found['task'] != 'demo':
        return [_score(folder, found, found['task'], found, found['model'])]
    scores = []
    for backbone, of_one in found['results'].items():
        facts = found['models'][backbone]
        scores += [_score(folder, found, task, measured, facts) for task, measured in of_one.items()]
    return scores


def _score(folder, found, task, measured, facts):
    protocol = dict(found.get('protocol', {}))
    streaming = protocol.pop('streaming', None)
    texts, numbers = (task, measured['metric'], facts['tap'], facts['precision']), (measured['value'], found['seed'])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError('a name is no text')
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError('a score or seed is no number')
    if not all(isinstance(answer, (bool, type(None))) for answer in (streaming, facts['random_weights'])):
        raise TypeError('streaming or random_weights is neither true nor false')
    settings = {'protocol': protocol, 'schedule': found.get('schedule', {}), 'data': found.get('data', {})}
    model = Model(
        path=os.path.normpath(facts['path']), tap=facts['tap'], is_random=facts['random_weights'],
        precision=facts['precision'],
        fingerprint=None if facts['random_weights'] else facts['fingerprint'],
    )  # fmt: skip
    return Score(
        folder=folder, task=task, metric=measured['metric'], higher_is_better=measured['higher_is_better'],
        value=measured['value'], seed=found['seed'], settings={'metric': measured['metric']} | _flat(settings),
        model=model, streaming=None if measured['metric'] in ONE_READOUT else streaming,
    )  # fmt: skip


def _flat(values, prefix=''):
    """{'outer.inner': value} of dicts in dicts."""
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat

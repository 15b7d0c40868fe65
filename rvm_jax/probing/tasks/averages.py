"""Scores of single clips become scores of a data set."""

import numpy as np


def scores_of(task, predictions, examples):
    """{name: value} of a task's predictions of examples, both lists."""
    return task.scores([task.measure(*pair) for pair in zip(predictions, examples, strict=True)])


def average(measures):
    """Means of a list of {'id', name: value}, one of each example: first over those that share an id, then over ids.

    nan, a score that a clip does not have, is left out; nan if no clip has it.
    """
    return {name: _mean_by_id([(one['id'], one[name]) for one in measures]) for name in measures[0] if name != 'id'}


def _mean_by_id(pairs):
    grouped = {}
    for name, value in pairs:
        if not np.isnan(value):
            grouped.setdefault(name, []).append(value)
    return float(np.mean([np.mean(group) for group in grouped.values()])) if grouped else float('nan')

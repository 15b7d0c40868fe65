"""Scores of single clips become scores of a data set."""

import numpy as np


def average(scores, examples):
    """Means of a list of {metric: value}, one of each example: first over examples that share an id, then over ids.

    nan, a score that a clip does not have, is left out; nan if no clip has it.
    """
    return {name: _mean_by_id([one[name] for one in scores], examples) for name in scores[0]}


def _mean_by_id(values, examples):
    grouped = {}
    for value, example in zip(values, examples, strict=True):
        if not np.isnan(value):
            grouped.setdefault(example['id'], []).append(value)
    return float(np.mean([np.mean(group) for group in grouped.values()])) if grouped else float('nan')

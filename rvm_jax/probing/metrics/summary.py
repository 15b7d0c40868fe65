"""One number over many tasks."""

import numpy as np

from rvm_jax.errors import UserError


def normalized_average(values, higher_is_better):
    """{model: mean over tasks of its value relative to the best model, in percent}; it hangs on who is compared.

    values is {model: {task: number}}, higher_is_better {task: bool}; relative is value / best, or best / value where
    lower is better. Raises UserError where a model lacks a task or has no finite value for it.
    """
    for model, found in values.items():
        for task in higher_is_better:
            if not np.isfinite(found.get(task, np.nan)):
                raise UserError(model, f'has no value for {task}', 'leave out this model or this task')
    averages = {}
    for model, found in values.items():
        shares = []
        for task, higher in higher_is_better.items():
            best = (max if higher else min)(other[task] for other in values.values())
            value, best = (found[task], best) if higher else (best, found[task])
            shares.append(1.0 if value == best else value / best)  # an error of 0 is the best, not 0 / 0
        averages[model] = 100 * float(np.mean(shares))
    return averages

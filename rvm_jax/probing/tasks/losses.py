"""What several tasks share: masked losses, and scores of clips that become scores of a dataset.

What a mask leaves out never reaches a value or a gradient.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rvm_jax.probing.interfaces import ReadoutTask


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of values where mask, over everything; 0 if the mask is empty. mask broadcasts to values."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def known(truth: jax.Array, mask: jax.Array, filler: float = 0) -> jax.Array:
    """truth where mask, else filler, so that missing values do not make a result or its gradient infinite."""
    return jnp.where(mask, truth, filler)


def norm(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Length along the last axis, with a finite gradient at 0."""
    return jnp.sqrt(jnp.square(x).sum(-1) + epsilon)


def huber(distance: jax.Array, delta: float) -> jax.Array:
    """Half the square up to delta, linear beyond it."""
    return jnp.where(distance < delta, jnp.square(distance) / 2, delta * (distance - delta / 2))


def scores_of(task: ReadoutTask, predictions: Sequence[dict], examples: Sequence[dict]) -> dict[str, float]:
    """{name: value} of a task for the predictions of some examples."""
    return task.scores([task.measure(*pair) for pair in zip(predictions, examples, strict=True)])


def average(measures: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of [{'id', name: value}, ...], one dict an example: first over examples that share an id, then over ids.

    A score that a clip does not have is nan and is left out; the mean is nan if no clip has the score.
    """
    return {name: _mean_by_id([(one['id'], one[name]) for one in measures]) for name in measures[0] if name != 'id'}


def _mean_by_id(pairs):
    grouped: dict[str, list[float]] = {}
    for name, value in pairs:
        if not np.isnan(value):
            grouped.setdefault(name, []).append(value)
    return float(np.mean([np.mean(group) for group in grouped.values()])) if grouped else float('nan')

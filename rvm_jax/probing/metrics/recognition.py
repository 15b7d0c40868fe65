"""Top-1 accuracy, and what it is without looking."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def top1(probabilities_NK: Any, labels_N: Any, ids: Sequence[str] | None = None) -> float:
    """Fraction of examples whose most probable class is the right one; nan if there are no examples.

    With ids, probabilities of clips that share an id (one video) are averaged first, and a video counts once. Equal
    probabilities give the lowest class. Raises ValueError if clips of one id have different labels.
    """
    probabilities_NK, labels_N = np.asarray(probabilities_NK, np.float64), np.asarray(labels_N)
    if not len(labels_N):
        return float('nan')
    if ids is not None:
        _, first, group_N = np.unique(np.asarray(ids), return_index=True, return_inverse=True)
        if (labels_N != labels_N[first][group_N]).any():
            raise ValueError('clips that share an id have different labels')
        sums = np.zeros((len(first), probabilities_NK.shape[1]))
        np.add.at(sums, group_N, probabilities_NK)
        probabilities_NK, labels_N = sums / np.bincount(group_N)[:, None], labels_N[first]
    return float(np.mean(probabilities_NK.argmax(axis=1) == labels_N))


def chance(labels_N: Any, ids: Sequence[str]) -> float:
    """Top-1 of the best constant answer: the share of the commonest class; nan if there are no examples.

    Clips that share an id are one video.
    """
    labels = list({name: int(label) for name, label in zip(ids, labels_N, strict=True)}.values())
    return max(np.bincount(labels)) / len(labels) if labels else float('nan')

"""Which examples are held out: a share of each class, the same on every machine."""

import collections
import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def held_out(names: Sequence[str], labels: Iterable[Hashable], share: float) -> np.ndarray:
    """Bools (N,): a share of the examples of each class, rounded, but at least one and never all of them.

    A class with a single example keeps it. The choice follows a hash of the names, not their order, so it hardly
    changes if examples are added.
    """
    members: dict[Hashable, list[int]] = collections.defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    held_N = np.zeros(len(names), bool)
    for indices in members.values():
        count = min(max(round(share * len(indices)), 1), len(indices) - 1)
        held_N[sorted(indices, key=lambda index: _digest(names[index]))[:count]] = True
    return held_N


def _digest(name):
    return hashlib.sha256(name.encode(errors='surrogateescape')).digest(), name

"""Several sources become one: each with its frame rate, and drawn in proportion to its weight (RVM, Table 4)."""

import bisect
import dataclasses
import fractions
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rvm_jax.data.sources.source import Record, Source


@dataclasses.dataclass(frozen=True)
class Part:
    """A source, the frames per second that clips from it have, and its weight, relative to the other parts' weights."""

    source: Source
    fps: float
    weight: float = 1.0


class Mixture:
    """mixture[i] is record i of all parts, one part after the other; len(mixture) their number.

    An ordinary data set is a mixture of one part.
    """

    def __init__(self, parts: Iterable[Part]):
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(len(part.source) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, record: int) -> Record:
        number = self.part(record)
        return self.parts[number].source[record - self._start(number)]

    @property
    def path(self) -> str:
        """The paths of all parts, for messages."""
        return ', '.join(part.source.path for part in self.parts)

    def fps(self, record: int) -> float:
        """Frames per second of clips from this record."""
        return self.parts[self.part(record)].fps

    def neighbors(self, record: int) -> range:
        """The records of the part that this record is from, itself included: a range."""
        number = self.part(record)
        return range(self._start(number), self._ends[number])

    def order(self, seed: int) -> Callable[[int], int]:
        """A picklable function from the number of a sample, in an endless stream, to its record.

        The parts take turns, exactly by weight. Each part's own samples run through all its records in random order,
        then through all of them in another one, whatever the other parts do.
        """
        import grain

        parts = []
        for number, end in enumerate(self._ends):
            part_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])  # no two share an order
            parts.append(grain.MapDataset.range(self._start(number), end).shuffle(seed=part_seed).repeat())
        return functools.partial(_record, parts, whole_weights([part.weight for part in self.parts]))

    def manifest(self) -> list[list]:
        """The parts' manifests in one, with an entry for the frame rate and weight of each.

        Where there are several parts, each name begins with the number of its part.
        """
        entries: list[list] = []
        for number, part in enumerate(self.parts):
            entries.append([f'rate and weight of part {number}', part.fps, part.weight])
            prefix = f'{number}/' if len(self.parts) > 1 else ''
            entries += [[f'{prefix}{name}', *rest] for name, *rest in part.source.manifest()]
        return entries

    def fingerprint(self) -> str:
        """Hex digest of the parts' fingerprints, frame rates and weights."""
        parts = [[part.source.fingerprint(), part.fps, part.weight] for part in self.parts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def part(self, record: int) -> int:
        """The number of the part that this record is from."""
        return bisect.bisect_right(self._ends, record)

    def _start(self, number):
        return self._ends[number - 1] if number else 0


def _record(parts, weights, sample):
    number, turn = part_of_sample(sample, weights)
    return int(parts[number][turn])


def whole_weights(weights: Iterable[float]) -> list[int]:
    """The smallest whole numbers in the same proportions as the weights, read as the decimals that they are."""
    exact = [fractions.Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    return [weight // math.gcd(*whole) for weight in whole]


def part_of_sample(sample: int, weights: Sequence[int]) -> tuple[int, int]:
    """(part, how many samples before this one were that part's), for any sample, without counting up to it.

    weights are whole numbers. Of the first n samples the first part has its share rounded up; the others divide the
    rest in the same way, so each part is less than one sample a part before it away from its share.
    """
    rest = sum(weights)
    for number, weight in enumerate(weights):
        passed_on, passed_on_next = (n * (rest - weight) // rest for n in (sample, sample + 1))
        if passed_on == passed_on_next:
            return number, sample - passed_on
        sample, rest = passed_on, rest - weight
    raise AssertionError('the last part passes nothing on')

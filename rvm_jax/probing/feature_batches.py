"""Batches for a readout: frozen features of the clips of a source (`interfaces.ClipSource`), with their truth."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.errors import DataError
from rvm_jax.probing.interfaces import ClipSource

MAX_FAILED = 0.1  # share of the examples of a source that may be unreadable, as in pre-training
NOT_FOR_DEVICES = ('id', 'video_THWC')


class Batches:
    """Features of a backbone, computed while clips of a source are decoded; training augments a clip anew each time.

    Threads decode clips ahead. Clips that cannot be read are left out and noted in `failed`, {index: why}; DataError if
    that is more than MAX_FAILED of the source.
    """

    def __init__(self, backbone: Any, source: ClipSource) -> None:
        self.width, self.num_frames = backbone.width, source.num_frames
        self.failed: dict[int, str] = {}
        self._backbone, self._source = backbone, source

    def __len__(self):
        return len(self._source)

    def training(
        self, *, batch_size: int, steps: int, start: int, seed: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[jax.Array, dict[str, jax.Array]]]:
        """Yield (features_BTMD, batch) for the steps after `start`; each depends only on seed and step.

        If an example cannot be read, the next one of the source takes its place.
        """
        self._backbone.replicate(mesh)
        items = _Items(steps * batch_size, lambda item: self._draw(seed, item))
        for examples in _decoded_ahead(items, batch_size, start * batch_size):
            yield self._batch(examples, mesh)

    def evaluation(
        self, *, batch_size: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[jax.Array, dict[str, jax.Array], list[dict]]]:
        """Yield (features_BTMD, batch, its examples), every example once; the last batch is padded to batch_size."""
        self._backbone.replicate(mesh)
        items = _Items(len(self._source), lambda index: self._read(index, None))
        for examples in _decoded_ahead(items, batch_size, 0):
            # Repeats of the last example keep one shape, so nothing is compiled twice; they are not scored.
            filled = examples + examples[-1:] * (batch_size - len(examples))
            yield *self._batch(filled, mesh), examples

    def _draw(self, seed, item):
        index = drawn(seed, item, len(self._source))
        while (example := self._read(index, np.random.default_rng((seed, item)))) is None:
            index = (index + 1) % len(self._source)
        return example

    def _read(self, index, rng):
        """An example; None if it cannot be read."""
        try:
            return self._source.example(index, rng)
        except DataError as error:
            self.failed[index] = str(error)
            if len(self.failed) > MAX_FAILED * len(self._source):
                reason = f'{error.reason}, and {len(self.failed)} of {len(self._source)} clips cannot be read'
                raise DataError(error.value, reason, 'repair the data') from error

    def _batch(self, examples, mesh):
        video_BTHWC = place(np.stack([example['video_THWC'] for example in examples]), mesh)
        return self._backbone.encode(video_BTHWC)[0], place(stack(examples), mesh)


@dataclasses.dataclass(frozen=True)
class _Items:
    """The sequence read(0), read(1), ... read(total - 1), each computed when it is accessed."""

    total: int
    read: Callable

    def __len__(self):
        return self.total

    def __getitem__(self, item):
        return self.read(item)


def _decoded_ahead(items, batch_size, start):
    """Lists of batch_size items, the last one may be shorter; None is left out."""
    import grain

    threads = min(16, 2 * len(os.sched_getaffinity(0)))  # decoding and resizing release the interpreter's lock
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
    return grain.MapDataset.source(items)[start:].to_iter_dataset(ahead).batch(batch_size, batch_fn=list)


def drawn(seed: int, item: int, length: int) -> int:
    """Which of `length` examples the item-th of training is: every epoch is another permutation."""
    epoch, position = divmod(item, length)
    return int(_order(seed, epoch, length)[position])


@functools.lru_cache(maxsize=4)
def _order(seed, epoch, length):
    return np.random.default_rng((seed, epoch)).permutation(length)


def stack(examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Examples as arrays with a leading axis, without the entries that no device needs."""
    names = [name for name in examples[0] if name not in NOT_FOR_DEVICES]
    return {name: np.stack([example[name] for example in examples]) for name in names}


def make_mesh(batch_size: int) -> jax.sharding.Mesh:
    """The largest number of devices that divides a batch evenly, along one axis."""
    devices = jax.devices()
    count = max(count for count in range(1, len(devices) + 1) if not batch_size % count)
    return jax.sharding.Mesh(np.array(devices[:count]), ('data',))


def place(arrays: Any, mesh: jax.sharding.Mesh) -> Any:
    """Arrays with a leading axis of clips, split over the devices of a mesh."""
    return jax.device_put(jax.tree.map(jnp.asarray, arrays), NamedSharding(mesh, PartitionSpec('data')))


def groups(total: int, size: int) -> list[list[int]]:
    """The numbers below total in lists of at most `size`."""
    return [list(range(first, min(first + size, total))) for first in range(0, total, size)]

"""Batches for a readout: frozen features of a source's clips, and the truth that goes with them.

A source has `len(source)`, `num_frames` and `example(index, rng) -> dict of arrays`; rng is None in evaluation.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.errors import DataError

MAX_FAILED = 0.1  # share of a source's examples that may turn out not to be readable, as in pre-training
NOT_FOR_DEVICES = ('id', 'video_THWC')


class Batches:
    """Features of a backbone, computed as the clips of a source are decoded; training draws each anew every time.

    Clips are decoded ahead by threads. What cannot be read is left out and noted in `failed`, {index: why}; DataError
    once that is more than MAX_FAILED of the source.
    """

    def __init__(self, backbone, source):
        self.width, self.num_frames = backbone.width, source.num_frames
        self.failed = {}
        self._backbone, self._source = backbone, source

    def __len__(self):
        return len(self._source)

    def training(self, *, batch_size, steps, start, seed, mesh):
        """Yield (features_BTMD, batch) for the steps after `start`, a function of seed and step alone.

        Where an example cannot be read, the one after it in the source takes its place.
        """
        self._backbone.replicate(mesh)
        items = _Items(steps * batch_size, lambda item: self._draw(seed, item))
        for examples in _decoded_ahead(items, batch_size, start * batch_size):
            yield self._batch(examples, mesh)

    def evaluation(self, *, batch_size, mesh):
        """Yield (features_BTMD, batch, its examples) once over; the last batch is filled up."""
        self._backbone.replicate(mesh)
        items = _Items(len(self._source), lambda index: self._read(index, None))
        for examples in _decoded_ahead(items, batch_size, 0):
            filled = examples + examples[-1:] * (batch_size - len(examples))
            yield *self._batch(filled, mesh), examples

    def _draw(self, seed, item):
        index = drawn(seed, item, len(self._source))
        while (example := self._read(index, np.random.default_rng((seed, item)))) is None:
            index = (index + 1) % len(self._source)
        return example

    def _read(self, index, rng):
        """An example; None for one that cannot be read."""
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
    """What `read` gives for the numbers below total, as a list that is read when it is looked at."""

    total: int
    read: Callable

    def __len__(self):
        return self.total

    def __getitem__(self, item):
        return self.read(item)


def _decoded_ahead(items, batch_size, start):
    """Lists of batch_size items, and one of what is left; None is left out."""
    import grain

    threads = min(16, 2 * len(os.sched_getaffinity(0)))  # decoding and resizing release the interpreter's lock
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
    return grain.MapDataset.source(items)[start:].to_iter_dataset(ahead).batch(batch_size, batch_fn=list)


def drawn(seed, item, length):
    """Which of so many examples the item-th of training is."""
    epoch, position = divmod(item, length)
    return int(_order(seed, epoch, length)[position])


@functools.lru_cache(maxsize=4)
def _order(seed, epoch, length):
    return np.random.default_rng((seed, epoch)).permutation(length)


def stack(examples):
    """A list of examples as arrays with a leading axis, without what no device needs."""
    names = [name for name in examples[0] if name not in NOT_FOR_DEVICES]
    return {name: np.stack([example[name] for example in examples]) for name in names}


def make_mesh(batch_size):
    """As many of the devices as divide a batch evenly, along one axis."""
    devices = jax.devices()
    count = max(count for count in range(1, len(devices) + 1) if not batch_size % count)
    return jax.sharding.Mesh(np.array(devices[:count]), ('data',))


def place(arrays, mesh):
    """Arrays with a leading axis of clips, split over the devices of a mesh."""
    return jax.device_put(jax.tree.map(jnp.asarray, arrays), NamedSharding(mesh, PartitionSpec('data')))


def groups(total, size):
    """The numbers below total as lists of up to size."""
    return [list(range(first, min(first + size, total))) for first in range(0, total, size)]

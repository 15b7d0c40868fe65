"""Batches for a readout: frozen features of a source's clips, and the truth that goes with them.

A source has `len(source)`, `num_frames` and `example(index, rng) -> dict of arrays`; rng is None in evaluation.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

NOT_FOR_DEVICES = ('id', 'video_THWC')


class Batches:
    """Features of a backbone, computed as the clips of a source are decoded; training draws each anew every time."""

    def __init__(self, backbone, source):
        self.width, self.num_frames = backbone.width, source.num_frames
        self._backbone, self._source = backbone, source

    def training(self, *, batch_size, steps, start, seed, mesh):
        """Yield (features_BTMD, batch) for the steps after `start`, a function of seed and step alone.

        Clips are decoded ahead by threads.
        """
        import grain

        items = grain.MapDataset.source(Draws(self._source, seed, steps * batch_size))[start * batch_size :]
        threads = min(16, 2 * len(os.sched_getaffinity(0)))  # decoding and resizing release the interpreter's lock
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
        for examples in items.to_iter_dataset(ahead).batch(batch_size, batch_fn=list):
            yield self._batch(examples, mesh)

    def evaluation(self, *, batch_size, mesh):
        """Yield (features_BTMD, batch, examples without their video) once over; the last batch is filled up."""
        for indices in groups(len(self._source), batch_size):
            examples = [self._source.example(index, None) for index in indices]
            filled = examples + examples[-1:] * (batch_size - len(examples))
            yield *self._batch(filled, mesh), [without_video(example) for example in examples]

    def _batch(self, examples, mesh):
        video_BTHWC = place(np.stack([example['video_THWC'] for example in examples]), mesh)
        return self._backbone.encode(video_BTHWC)[0], place(stack(examples), mesh)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What training reads, in order: item i is drawn by (seed, i), every epoch shuffled anew."""

    source: object
    seed: int
    total: int

    def __len__(self):
        return self.total

    def __getitem__(self, item):
        index = drawn(self.seed, item, len(self.source))
        return self.source.example(index, np.random.default_rng((self.seed, item)))


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


def without_video(example):
    """An example as it is kept for its scores."""
    return {name: value for name, value in example.items() if name != 'video_THWC'}


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

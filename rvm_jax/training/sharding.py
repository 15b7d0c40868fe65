"""Devices: the mesh, which axis of which parameter is split over it, and how a batch gets there."""

import re

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.conversion.mapping import path_name
from rvm_jax.errors import UserError

BATCH = PartitionSpec(('data', 'fsdp'))
DEVICE_ARRAYS = ('source_BTHWC', 'target_BFHWC', 'deltas_BF')  # of data/batch.py

# Path of a parameter -> partition of its trailing axes; the layer axis of a stack in front of them is never split.
# Optimizer moments have the same names. What no line fits is small and replicated.
PARTITIONS = (
    (r'(query|key|value)/kernel$', ('fsdp', None, None)),
    (r'attention/out/kernel$', (None, None, 'fsdp')),
    (r'mlp/dense_in/kernel$', ('fsdp', None)),
    (r'mlp/dense_out/kernel$', (None, 'fsdp')),
    (r'(update|reset)/kernel$', ('fsdp', None)),
    (r'(patch_embed|delta_embedder)/kernel$', (None, 'fsdp')),
    (r'decoder/(embedder|detokenizer)/kernel$', ('fsdp', None)),
)


def make_mesh(mesh, devices=None):
    """A Mesh with axes 'data' and 'fsdp'; -1 takes the devices that the other axis leaves.

    Raises UserError if the sizes do not use up all devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {'data': mesh.data, 'fsdp': mesh.fsdp}
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    shape = [len(devices) // known if size == -1 else size for size in sizes.values()]
    if np.prod(shape) != len(devices):
        raise UserError(f'config.mesh {sizes}', f'does not divide {len(devices)} devices', 'set one of the axes to -1')
    return jax.sharding.Mesh(np.asarray(devices).reshape(shape), tuple(sizes))


def state_shardings(mesh, abstract_state):
    """A NamedSharding for every leaf of a train state, by `PARTITIONS`."""

    def sharding(path, leaf):
        spec = next((spec for pattern, spec in PARTITIONS if re.search(pattern, path_name(path))), ())
        spec = (None,) * (leaf.ndim - len(spec)) + spec if spec else ()
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f'config.mesh.{axis}={mesh.shape[axis]}', f'does not divide {path_name(path)} {leaf.shape}',
                    'take a smaller power of two',
                )  # fmt: skip
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def check_batch(mesh, batch_size):
    """Raise UserError unless the clips of a step divide over all devices."""
    if batch_size % mesh.devices.size:
        raise UserError(
            f'config.batch_size={batch_size}', f'does not divide over {mesh.devices.size} devices',
            f'take a multiple of {mesh.devices.size}',
        )  # fmt: skip


def place_batch(mesh, batch):
    """The arrays of this process's rows of a batch as global arrays, split over all devices."""
    sharding = NamedSharding(mesh, BATCH)
    return {name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in DEVICE_ARRAYS}

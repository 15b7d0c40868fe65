"""Devices: the mesh, which axis of which parameter is split over it, and how a batch gets to the devices.

A train step runs on every device by itself, on its own clips (`jax.shard_map`), and all communication between devices
is written here. The weights of a layer are gathered where it is used; going backward, the transpose of this gather adds
up the gradients and leaves each device its part (ZeRO-3, FSDP: arXiv 1910.02054, 2304.11277).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rvm_jax.errors import UserError
from rvm_jax.models.layers import Precision
from rvm_jax.models.param_names import STACK, path_name

AXES = ('data', 'fsdp')
BATCH = PartitionSpec(AXES)
DEVICE_ARRAYS = ('source_BTHWC', 'target_BFHWC', 'deltas_BF')  # of data/batch.py

# Pattern of a parameter's path -> partition of its trailing axes. The layer axis, in front of them in a stack, is never
# split, because layers are gathered one by one. The split axis is the width of the model: the number of heads does not
# divide by many devices. Optimizer moments have the same names. What matches no pattern is small and is copied to every
# device.
PARTITIONS = (
    (r'(query|key|value)/kernel$', ('fsdp', None, None)),
    (r'attention/out/kernel$', (None, None, 'fsdp')),
    (r'mlp/dense_in/kernel$', ('fsdp', None)),
    (r'mlp/dense_out/kernel$', (None, 'fsdp')),
    (r'(update|reset|gate|in_proj|x_proj)/kernel$', ('fsdp', None)),
    (r'out_proj/kernel$', (None, 'fsdp')),
    (r'(patch_embed|delta_embedder)/kernel$', (None, 'fsdp')),
    (r'/(embedder|detokenizer|feature_head)/kernel$', ('fsdp', None)),
)


def mesh_sizes(mesh: ml_collections.ConfigDict, devices: int, slices: int = 1) -> dict[str, int]:
    """{'data', 'fsdp'} of a config's `mesh` on so many devices: -1 takes those that the other axis leaves.

    If data is -1 and fsdp is more than one slice has, fsdp becomes all devices of a slice. Raises UserError if the
    sizes do not use all devices, or split 'fsdp' across slices.
    """
    data, fsdp = mesh.data, mesh.fsdp
    if data == -1 and fsdp % (devices // slices) == 0:
        fsdp = devices // slices
    data = devices // fsdp if data == -1 else data
    fsdp = devices // data if fsdp == -1 else fsdp
    if data * fsdp != devices:
        most = next(size for size in range(devices, 0, -1) if not devices % size and size <= max(mesh.fsdp, 1))
        fix = f'set config.mesh.fsdp={most}' if mesh.data == -1 else 'set config.mesh.data=-1, which takes what is left'
        raise UserError(
            f'config.mesh.data={mesh.data}, fsdp={mesh.fsdp}',
            f'data x fsdp must be {devices}, the number of devices',
            fix,
        )
    if data % slices:
        raise UserError(
            f'config.mesh.data={mesh.data}, fsdp={mesh.fsdp}', f'splits weights across {slices} slices or hosts',
            f'make config.mesh.data a multiple of {slices}',
        )  # fmt: skip
    return {'data': data, 'fsdp': fsdp}


def make_mesh(mesh: ml_collections.ConfigDict, devices: Sequence[Any] | None = None, by_process: bool = False) -> Mesh:
    """A Mesh of a config's `mesh`, see `mesh_sizes`, over all devices.

    If there are several slices (of TPUs; for GPUs a slice is a host), connected by a slower network, 'data' goes across
    slices first, so that weights are gathered within a slice. by_process: a slice is the devices of one process; for
    GPUs that a program is compiled for without having them, because JAX gives those no slice_index.
    """
    devices = jax.devices() if devices is None else devices
    slice_of = 'process_index' if by_process else 'slice_index'
    slices = len({getattr(device, slice_of, 0) for device in devices})
    data, fsdp = mesh_sizes(mesh, len(devices), slices).values()
    if slices > 1:
        arranged = mesh_utils.create_hybrid_device_mesh(
            (data // slices, fsdp), (slices, 1), devices, process_is_granule=by_process
        )
    else:
        arranged = mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(arranged, AXES)


def platform(mesh: Mesh) -> str:
    """'cpu', 'gpu', 'tpu' or 'old tpu': what a model is computed on, see `layers.Execution`."""
    device = mesh.devices.flat[0]
    is_old = device.platform == 'tpu' and device.device_kind.startswith(('TPU v2', 'TPU v3', 'TPU v4'))
    return 'old tpu' if is_old else device.platform


def partition(path: tuple[Any, ...], shape: Sequence[int]) -> PartitionSpec:
    """The PartitionSpec of a leaf with this path and shape, by `PARTITIONS`."""
    spec: tuple[str | None, ...] = next(
        (spec for pattern, spec in PARTITIONS if re.search(pattern, path_name(path))), ()
    )
    return PartitionSpec(*(None,) * (len(shape) - len(spec)), *spec) if spec else PartitionSpec()


def state_shardings(mesh: Mesh, abstract_state: Any, sharded: str = 'params') -> Any:
    """A NamedSharding for every leaf of a train state; with sharded 'optimizer' its 'params' are replicated.

    Raises UserError if an axis of the mesh does not divide an array that is split over it.
    """

    def sharding(path, leaf):
        if sharded == 'optimizer' and path_name(path).startswith('params/'):
            return NamedSharding(mesh, PartitionSpec())
        spec = partition(path, leaf.shape)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f'config.mesh.{axis}={mesh.shape[axis]}',
                    f'cannot split {path_name(path)}, of shape {leaf.shape}, into equal parts',
                    'take a smaller power of two',
                )  # fmt: skip
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def make_gather(mesh: Mesh, sharded: str, precision: Precision) -> Callable[[Any], Any] | None:
    """gather(params) -> params with whole arrays, called on a device's parts of them; None if nothing is split.

    Stacks of layers stay in parts: each `Stack` gathers a layer when it is used, so that only one layer is whole at a
    time. If all products are in bfloat16, weights are sent in bfloat16; gradients are always added up in float32.
    """
    if sharded == 'optimizer' or mesh.shape['fsdp'] == 1:
        return None
    dtype = jnp.bfloat16 if precision.tokens == precision.block == jnp.bfloat16 else jnp.float32

    def gather(params):
        def leaf(path, x):
            spec = partition(path, x.shape)
            if 'fsdp' not in spec or STACK in path_name(path):
                return x
            return _gathered(x, spec.index('fsdp'), dtype)

        return jax.tree_util.tree_map_with_path(leaf, params)

    return gather


# A derivative of its own, because the one of all_gather would add up gradients in the dtype that weights are sent in.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x, axis, dtype):
    return jax.lax.all_gather(x.astype(dtype), 'fsdp', axis=axis, tiled=True)


def _gathered_forward(x, axis, dtype):
    return _gathered(x, axis, dtype), None


def _gathered_backward(axis, dtype, _, grad):
    return (_scattered_sum(grad.astype(jnp.float32), axis),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _scattered_sum(grad, axis):
    return jax.lax.psum_scatter(grad, 'fsdp', scatter_dimension=axis, tiled=True)


def mean_gradients(gradients: Any, weight_specs: Any, gradient_specs: Any) -> Any:
    """Each device's gradients of its own clips' mean loss -> its part of the mean gradient over all devices.

    Gradients of split weights are already added up over 'fsdp', by the transpose of `make_gather`.
    """

    def reduce(grad, weight_spec, wanted):
        if 'fsdp' not in wanted:
            return mean(grad)
        if 'fsdp' not in weight_spec:
            grad = _scattered_sum(grad, wanted.index('fsdp'))
        return mean(grad / jax.lax.axis_size('fsdp'), ('data',))

    return jax.tree.map(reduce, gradients, weight_specs, gradient_specs)


def mean(tree: Any, axes: Sequence[str] = AXES) -> Any:
    """The mean over the devices along axes, within a device's program; an axis of one device costs nothing."""
    axes = tuple(axis for axis in axes if jax.lax.axis_size(axis) > 1)
    return jax.lax.pmean(tree, axes) if axes else tree


def check_batch(devices: int, batch_size: int, accumulate: int = 1) -> None:
    """Raise UserError unless every device gets the same number of clips of a step, and of each part of it."""
    if batch_size % (devices * accumulate):
        parts = f' and {accumulate} parts' if accumulate > 1 else ''
        raise UserError(
            f'config.batch_size={batch_size}', f'cannot be split evenly over {devices} devices{parts}',
            f'take a multiple of {devices * accumulate}',
        )  # fmt: skip


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Rows of the global batch that this process's devices take, ascending.

    They may have gaps: on a TPU slice the mesh follows the links between chips, not the hosts.
    """
    held = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in held for row in range(batch_size)[rows]})  # type: ignore[misc]  # None: one device


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays, divided over all devices, from a batch of this process's rows, see `local_rows`."""
    sharding = NamedSharding(mesh, BATCH)
    return {name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in DEVICE_ARRAYS}

"""A few integers that each process sends to all others at every step, without waiting for them."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rvm_jax.distributed.process_group import ProcessGroup


def warm_up_collectives(hosts: ProcessGroup, mesh: Mesh) -> None:
    """Run one small collective along each axis of the mesh, and over both, before anything large compiles.

    A network that does not work is found at once. And where CPUs use gloo, whose processes must connect within 30
    seconds, they do so now, and not after compilations that may take longer in one process than in another.
    """
    if hosts.count == 1:
        return
    for axes in (mesh.axis_names, *((axis,) for axis in mesh.axis_names)):
        spec = PartitionSpec(mesh.axis_names)
        total = jax.shard_map(functools.partial(jax.lax.psum, axis_name=axes), mesh=mesh, in_specs=spec, out_specs=spec)
        ones = jax.jit(functools.partial(jnp.ones, mesh.size), out_shardings=NamedSharding(mesh, spec))()
        hosts.all_gather(None)  # all are here
        jax.block_until_ready(jax.jit(total)(ones))


class StepExchange:
    """Integers between the processes of a mesh.

    They are sent by the devices, after the step that was started before them, so neither the device nor the host waits
    if they are read a step later. All processes must send and read at the same places in the loop; what they read there
    is the same, so that they may all decide by it.
    """

    def __init__(self, mesh: Mesh):
        devices = list(mesh.devices.flat)
        self._processes = np.array([device.process_index for device in devices])
        self._count = jax.process_count()
        self._local = sum(self._processes == jax.process_index())
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._share = jax.jit(lambda values_DK: values_DK, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._sent: jax.Array | np.ndarray | None = None

    def send(self, values: Sequence[int]) -> None:
        """Send this process's integers to all."""
        if self._count == 1:
            self._sent = np.array([values])
            return
        mine_DK = np.zeros((self._local, len(values)), np.int32)
        mine_DK[0] = values
        self._sent = self._share(jax.make_array_from_process_local_data(self._split, mine_DK))

    def read(self) -> np.ndarray | None:
        """What was sent last, one row per process; None if nothing new was. Waits for the step before it."""
        if self._sent is None:
            return None
        rows_DK, self._sent = np.asarray(self._sent), None
        if self._count == 1:
            return rows_DK
        return np.stack([rows_DK[self._processes == process].sum(0) for process in range(self._count)])

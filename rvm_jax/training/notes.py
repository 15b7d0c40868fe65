"""A few integers that each process tells all others at every step, without waiting for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def first_words(hosts, mesh):
    """Let the devices of all processes talk along each axis of the mesh, and over both, before anything large compiles.

    A network that does not work is found at once. And where CPUs talk through gloo, which has the processes connect
    within 30 seconds, they do so now, and not after compilations that may take longer in one than in another.
    """
    if hosts.count == 1:
        return
    for axes in (mesh.axis_names, *((axis,) for axis in mesh.axis_names)):
        spec = PartitionSpec(mesh.axis_names)
        total = jax.shard_map(functools.partial(jax.lax.psum, axis_name=axes), mesh=mesh, in_specs=spec, out_specs=spec)
        ones = jax.jit(functools.partial(jnp.ones, mesh.size), out_shardings=NamedSharding(mesh, spec))()
        hosts.gather(None)  # all are here
        jax.block_until_ready(jax.jit(total)(ones))


class Notes:
    """Notes between the processes of a mesh, read one step after they were sent.

    They travel with the devices' own messages, behind the step that was started before them, so neither the device nor
    the host waits; and all processes read the same notes at the same step, so that they may decide by them.
    """

    def __init__(self, mesh):
        devices = list(mesh.devices.flat)
        self._processes = np.array([device.process_index for device in devices])
        self._count = jax.process_count()
        self._local = sum(self._processes == jax.process_index())
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._share = jax.jit(lambda notes_DK: notes_DK, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._sent = None

    def exchange(self, values):
        """Send this process's integers; returns those of all, one row a process, of the step before (None: no step).

        Where there is one process its own come back at once.
        """
        if self._count == 1:
            return np.array([values])
        mine_DK = np.zeros((self._local, len(values)), np.int32)
        mine_DK[0] = values
        before, self._sent = self._sent, self._share(jax.make_array_from_process_local_data(self._split, mine_DK))
        return None if before is None else self._read(before)

    def _read(self, notes_DK):
        rows_DK = np.asarray(notes_DK)
        return np.stack([rows_DK[self._processes == process].sum(0) for process in range(self._count)])

"""A run of several processes that saves three times; at the second time one process cannot write."""

import contextlib
import os
import resource

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.storage.run_lock import run_lock
from rvm_jax.training.checkpoint import Checkpoints


def limit(size):
    """Limit the size of the files that this process can write, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def run(hosts, workdir):
    """Save steps 1, 2 and 3, then restore the last one and compare."""
    split = NamedSharding(jax.make_mesh((jax.device_count(),), ('data',)), PartitionSpec('data'))
    values = np.random.default_rng(0).random((2, 2**16), np.float32)
    state = {'w': jax.make_array_from_callback(values.shape, split, lambda part: values[part])}
    with contextlib.ExitStack() as stack:
        hosts.broadcast_from_first(lambda: stack.enter_context(run_lock(workdir)))
        checkpoints = stack.enter_context(Checkpoints(workdir, hosts=hosts))
        checkpoints.save(1, state, {'seed': 5})
        checkpoints.wait()
        if hosts.index == int(os.environ['VICTIM']):
            limit(2**15)
        checkpoints.save(2, state, {'seed': 5})
        checkpoints.wait()
        limit(resource.RLIM_INFINITY)
        print('steps', checkpoints.steps(), flush=True)
        checkpoints.save_now(3, state, {'seed': 5})
        whole = jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=NamedSharding(split.mesh, PartitionSpec()))
        step, restored, data = checkpoints.restore({'w': whole})
        print('restored', step, data, (np.asarray(restored['w']) == values).all(), checkpoints.steps())

"""One of several processes that connect, and what it does then: process.py START_TIMEOUT TASK WORKDIR."""

# ruff: noqa: F401, the tasks use them
import os
import signal
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from rvm_jax.distributed.connect import connect
from rvm_jax.distributed.step_exchange import StepExchange, warm_up_collectives
from rvm_jax.errors import DataError, Stopped, Unavailable, UserError


def until_the_end():
    """As in a step: the devices of all processes must take part."""
    mesh = jax.make_mesh((jax.device_count(),), ('data',))
    warm_up_collectives(hosts, mesh)
    notes = StepExchange(mesh)
    print('in a collective', flush=True)
    while True:
        notes.send([hosts.index])
        notes.read()
        time.sleep(0.05)


try:
    config = types.SimpleNamespace(start_timeout=int(sys.argv[1]), heartbeat=3, step_timeout=4)
    with connect(config) as hosts:
        print('met', flush=True)
        exec(sys.argv[2])
except (UserError, Stopped, Unavailable) as error:
    print(error, flush=True)
    sys.exit(error.exit_code)

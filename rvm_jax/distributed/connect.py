"""How several processes connect to train together, and how they end.

A launcher starts the same command on each host (or several times on one) with either RVM_COORDINATOR=host:port,
RVM_NUM_PROCESSES and RVM_PROCESS_ID, or RVM_DISTRIBUTED=auto where the machine knows its own cluster (TPU pods, Slurm).
Without them there is one process, and `connect` does nothing.

A launcher that sets RVM_PROCESS_FILE=PATH learns there which process a host has, as soon as all are connected: one line
with its number, as in messages, and the word `first` if it is the one that prints the run. That one need not be on the
first host: on TPUs JAX takes the order from the slice.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed
from ml_collections import ConfigDict

from rvm_jax import errors
from rvm_jax.distributed.process_group import ALONE, ProcessGroup
from rvm_jax.distributed.watchdog import Watchdog
from rvm_jax.errors import Stopped, Unavailable, UserError
from rvm_jax.storage import atomic

EXPLICIT = ('RVM_COORDINATOR', 'RVM_NUM_PROCESSES', 'RVM_PROCESS_ID')
AUTO = 'RVM_DISTRIBUTED'
PROCESS_FILE = 'RVM_PROCESS_FILE'
MARGIN = 60  # seconds by which JAX's own limits, which end in an abort, are longer than ours
# How errors begin that a process gets when another one is gone; JAX raises them as several classes.
BROKEN = tuple('UNKNOWN INTERNAL UNAVAILABLE ABORTED CANCELLED DEADLINE_EXCEEDED FAILED_PRECONDITION'.split())
_kept: list[Any] = []  # callbacks that C++ still calls, and clients whose destructors would wait for other processes
_early: list[int] = []  # the exit code of a process that ends before the others


@contextlib.contextmanager
def connect(config: ConfigDict) -> Iterator[ProcessGroup]:
    """Connect to the other processes, before any device is touched; config is `config.hosts`. Yields ProcessGroup.

    UserError if the environment makes no sense. If not all are there within start_timeout, or one is lost later, the
    process ends with exit code 75 and a line that says which. A process that leaves the block with an exception tells
    the others, and they end as well.
    """
    arguments = _from_environment()
    if arguments is None:
        _tell_launcher(0, True)
        yield ALONE
        return
    atexit.register(_end_early)
    lost: list[Callable[[], None]] = []  # what to do when process 0 is gone
    client = _connect(config, arguments, lost)
    state = distributed.global_state
    _tell_launcher(state.process_id, jax.process_index() == 0)
    if state.num_processes == 1:
        yield ALONE
        return
    watch = Watchdog(client, state.process_id, state.num_processes, config.heartbeat, config.step_timeout)
    lost.append(watch.lost)
    watch.start()
    try:
        hosts = ProcessGroup(client, jax.process_index(), state.num_processes, watch)
        yield hosts
        hosts.all_gather(None)  # all have come to the end
    except BaseException as error:
        _part(watch, state, error)
        raise
    watch.stop()
    # Process 0 takes the store with it when it ends: not before the watchdog of each process has stopped.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier('rvm/parted', config.heartbeat * 1000)
    jax.distributed.shutdown()


def _tell_launcher(number, is_first):
    if path := os.environ.get(PROCESS_FILE):
        atomic.write_bytes(path, f'{number} first\n'.encode() if is_first else f'{number}\n'.encode())


def _part(watch, state, error):
    """Tell the others that this process ends early. After an error of a collective, first wait for the real cause."""
    if str(error).startswith(BROKEN):
        watch.wait_for_a_reason()
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, 'exit_code', 1)
    watch.goodbye(code, (str(error) or type(error).__name__).splitlines()[0][:500])
    if state.process_id and isinstance(error, UserError | errors.ConfigErrors | Stopped | Unavailable):
        error.args = (f'process {state.process_id}: {error}',)
    # An orderly shutdown would wait for processes that may never come.
    _kept.append((state.client, state.service))
    _early.append(code)
    state.client = state.service = None


def _end_early():
    """End a process that ended early before Python is torn down: its threads of C++ would still call into it."""
    if _early:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(_early[0])


def _from_environment():
    """Arguments of jax.distributed.initialize, or None for one process."""
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if not given:
        auto = os.environ.get(AUTO, '')
        if auto not in ('', 'auto'):
            raise UserError(f'{AUTO}={auto}', 'is not known', 'set it to auto, or leave it out')
        return {} if auto else None
    missing = ', '.join(name for name in EXPLICIT if name not in given)
    if missing:
        raise UserError(', '.join(given), f'set without {missing}', 'set all three, or none')
    address, count, index = given.values()
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(f'RVM_PROCESS_ID={index}', f'is not a process of {count}', 'number them from 0')
    if not address.rpartition(':')[2].isdecimal():
        raise UserError(f'RVM_COORDINATOR={address}', 'does not have a port', 'give host:port of process 0')
    return {'coordinator_address': address, 'num_processes': int(count), 'process_id': int(index)}


def _connect(config, arguments, lost):
    """The client of jax.distributed once all processes are there; what is in `lost` is called if process 0 is gone."""
    jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM from us
    if arguments and arguments['process_id'] == 0:
        _check_port(arguments['coordinator_address'])
    late = threading.Timer(config.start_timeout, _give_up, (config.start_timeout, arguments))
    late.daemon = True
    late.start()
    try:
        with _no_abort(lost):
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=config.start_timeout + MARGIN,
                heartbeat_timeout_seconds=2 * config.heartbeat + MARGIN,
                shutdown_timeout_seconds=config.heartbeat,
            )
    except jax.errors.JaxRuntimeError as error:  # such as a network that is not up
        raise Unavailable('jax.distributed', str(error).splitlines()[0]) from error
    except (ValueError, RuntimeError) as error:
        where = arguments.get('coordinator_address') or f'{AUTO}={os.environ[AUTO]}'
        raise UserError(where, f'does not connect ({str(error).splitlines()[0]})', 'check the launcher') from error
    finally:
        late.cancel()
    return distributed.global_state.client


def _check_port(address):
    """Stopped if another process has the port of process 0, where JAX 0.10.2 ends with a segmentation fault."""
    with socket.socket() as here:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an ended process do not count
        try:
            here.bind(('', int(address.rpartition(':')[2])))
        except OSError as error:
            in_use = f'{address}: the port is in use, perhaps by an earlier run that is still ending; start again'
            raise Stopped(in_use) from error


def _give_up(seconds, arguments):
    """The processes did not all come in time: end this one."""
    address = arguments.get('coordinator_address') or distributed.global_state.coordinator_address or ''
    who = f'process {distributed.global_state.process_id or arguments.get("process_id", 0)}'
    host, _, port = address.rpartition(':')
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        reason = f'process 0 answers at {address}, but not all others connected'
    except (OSError, ValueError):
        reason = f'process 0 does not answer at {address}'
    line = f'rvm train: {who}: the processes did not connect within {seconds} s: {reason}; see the logs of the others'
    os.write(2, f'{line}\n'.encode())
    os._exit(Stopped.exit_code)


@contextlib.contextmanager
def _no_abort(lost):
    """Have JAX call what is in `lost` when process 0 is gone; it would abort the process with a stack of C++.

    jaxlib takes a callback for that, which `jax.distributed` does not pass on. In jaxlib 0.10 the callback fails on its
    way to Python, because of its argument, and C++ calls its terminate handler: so that calls `on_error` too. The
    thread that calls it is JAX's own and waits in it forever; the watchdog ends the process.
    """

    def on_error(*_):
        for act in lost:
            act()
        os.abort()

    handler = ctypes.CFUNCTYPE(None)(on_error)
    _kept.append(handler)
    ctypes.CDLL('libstdc++.so.6')['_ZSt13set_terminatePFvvE'](handler)
    jaxlib = distributed._jax
    make = jaxlib.get_distributed_runtime_client
    jaxlib.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=on_error, shutdown_on_destruction=False
    )
    try:
        yield
    finally:
        jaxlib.get_distributed_runtime_client = make

"""Several processes that train together: how they meet, agree before the first step, and decide alike.

A launcher starts the same command on each host (or several times on one) with either RVM_COORDINATOR=host:port,
RVM_NUM_PROCESSES and RVM_PROCESS_ID, or RVM_DISTRIBUTED=auto where the machine knows its own cluster (TPU pods, Slurm).
Without them there is one process, and nothing here does anything.
"""

import collections
import contextlib
import ctypes
import functools
import json
import os
import socket
import threading

import jax
from jax._src import distributed

from rvm_jax import errors
from rvm_jax.errors import Stopped, UserError
from rvm_jax.training.progress import say
from rvm_jax.training.watch import Watch

EXPLICIT = ('RVM_COORDINATOR', 'RVM_NUM_PROCESSES', 'RVM_PROCESS_ID')
AUTO = 'RVM_DISTRIBUTED'
FOREVER = 7 * 24 * 3600 * 1000  # milliseconds; the watch ends a wait for a process that is gone
MARGIN = 60  # seconds by which JAX's own limits, which end in an abort, are longer than ours
# How errors begin that a process gets when another one is gone; JAX raises them as several classes.
BROKEN = tuple('UNKNOWN INTERNAL UNAVAILABLE ABORTED CANCELLED DEADLINE_EXCEEDED FAILED_PRECONDITION'.split())
SHOWN = 4  # differences that a message lists


class Hosts:
    """This process among those that train together; `ALONE` where there is one.

    `decide`, `gather` and `check_agreement` wait for all processes: call them in all, in the same order, in the main
    thread.
    """

    def __init__(self, client=None, index=0, count=1, watch=None):
        self.index, self.count, self.watch = index, count, watch
        self.client, self._calls, self._posts = client, 0, 0

    @property
    def is_first(self):
        """Whether this process speaks and writes for all."""
        return self.index == 0

    def say(self, message):
        """Print one line, once for all."""
        if self.is_first:
            say(message)

    def stepped(self, step):
        """Tell the watch that this process came as far as this step."""
        if self.watch is not None:
            self.watch.stepped(step)

    def before_leaving(self, act):
        """Have act() called in the first process if the watch ends it, where nothing else is called any more."""
        if self.watch is not None and self.is_first:
            self.watch.before_leaving.append(act)

    def decide(self, act):
        """What act() returned, or raised, in the first process, in all of them; it must fit into JSON.

        Of exceptions only those of `errors` are passed on.
        """
        if self.count == 1:
            return act()
        key = self._next_key('decided')
        if not self.is_first:
            return _unpack(self.client.blocking_key_value_get(key, FOREVER))
        try:
            value = act()
        except (UserError, errors.ConfigErrors, errors.Unavailable, Stopped) as error:
            self.client.key_value_set(key, json.dumps({'raised': type(error).__name__, 'message': str(error)}))
            raise
        text = json.dumps({'value': value})
        self.client.key_value_set(key, text)
        return _unpack(text)  # lists for tuples, as the others get them

    def gather(self, value):
        """The values of all processes, in their order; each must fit into JSON."""
        if self.count == 1:
            return [value]
        key = self._next_key('gathered')
        self.client.key_value_set(f'{key}/{self.index:06}', json.dumps(value))
        self.client.wait_at_barrier(key, FOREVER)
        return [json.loads(text) for _, text in sorted(self.client.key_value_dir_get(f'{key}/'))]

    def post(self, topic, value):
        """Leave a value for the first process, without waiting."""
        self._posts += 1
        self.client.key_value_set(f'rvm/{topic}/{self.index}/{self._posts}', json.dumps(value))

    def collect(self, topic):
        """In the first process: the values that others have left under this topic since the last time."""
        entries = self.client.key_value_dir_get(f'rvm/{topic}/') if self.count > 1 else []
        for key, _ in entries:
            self.client.key_value_delete(key)
        return [json.loads(text) for _, text in entries]

    def check_agreement(self, facts):
        """Raise UserError, in every process, unless all have the same facts ({what: text})."""
        differences = _differences(self.gather(facts))
        if differences:
            more = f' and {len(differences) - SHOWN} more' if len(differences) > SHOWN else ''
            raise UserError(
                f'{self.count} processes', '; '.join(differences[:SHOWN]) + more,
                'start all with the same command, code and data',
            )  # fmt: skip

    def _next_key(self, topic):
        self._calls += 1
        return f'rvm/{topic}/{self._calls}'


ALONE = Hosts()


@contextlib.contextmanager
def meet(config):
    """Meet the other processes, before any device is touched; config is `config.hosts`. Yields Hosts.

    UserError if the environment makes no sense. If not all are there within start_timeout, or one is lost later, the
    process ends with exit code 75 and a line that says who. A process that leaves the block with an exception tells the
    others, who end as well.
    """
    arguments = _from_environment()
    if arguments is None:
        yield ALONE
        return
    lost = []  # what to do when process 0 is gone
    client = _connect(config, arguments, lost)
    state = distributed.global_state
    if state.num_processes == 1:
        yield ALONE
        return
    watch = Watch(client, state.process_id, state.num_processes, config.heartbeat, config.step_timeout)
    lost.append(watch.lost)
    watch.start()
    try:
        hosts = Hosts(client, jax.process_index(), state.num_processes, watch)
        yield hosts
        hosts.gather(None)  # all have come to the end
    except BaseException as error:
        _part(watch, state, error)
        raise
    watch.stop()
    jax.distributed.shutdown()


def _part(watch, state, error):
    """Tell the others that this process ends early. An error of a collective waits for who caused it."""
    if str(error).startswith(BROKEN):
        watch.wait_for_a_reason()
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, 'exit_code', 1)
    watch.goodbye(code, (str(error) or type(error).__name__).splitlines()[0][:500])
    if state.process_id and isinstance(error, UserError | errors.ConfigErrors | Stopped | errors.Unavailable):
        error.args = (f'process {state.process_id}: {error}',)
    # Leaving in order would wait for processes that may never come.
    _kept.append((state.client, state.service))
    state.client = state.service = None


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
        raise UserError(f'RVM_PROCESS_ID={index}', f'is no process of {count}', 'number them from 0')
    if not address.rpartition(':')[2].isdecimal():
        raise UserError(f'RVM_COORDINATOR={address}', 'has no port', 'give host:port of process 0')
    return {'coordinator_address': address, 'num_processes': int(count), 'process_id': int(index)}


_kept = []  # clients and services that would say goodbye in vain


def _connect(config, arguments, lost):
    """The client of jax.distributed once all processes are there; what is in `lost` then is called if they part."""
    jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM from us
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
    except (ValueError, RuntimeError) as error:
        where = arguments.get('coordinator_address') or f'{AUTO}={os.environ[AUTO]}'
        raise UserError(where, f'no meeting ({str(error).splitlines()[0]})', 'check the launcher') from error
    finally:
        late.cancel()
    return distributed.global_state.client


def _give_up(seconds, arguments):
    """The processes did not all come in time: end this one."""
    address = arguments.get('coordinator_address') or distributed.global_state.coordinator_address or ''
    who = f'process {distributed.global_state.process_id or arguments.get("process_id", 0)}'
    host, _, port = address.rpartition(':')
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        reason = f'process 0 answers at {address}, but not all others came'
    except (OSError, ValueError):
        reason = f'process 0 does not answer at {address}'
    line = f'rvm train: {who}: the processes did not meet within {seconds} s: {reason}; see the logs of the others'
    os.write(2, f'{line}\n'.encode())
    os._exit(Stopped.exit_code)


@contextlib.contextmanager
def _no_abort(lost):
    """Have JAX call what is in `lost` when process 0 is gone, where it would abort the process with a stack of C++.

    jaxlib takes a callback for that, which `jax.distributed` does not pass on. In jaxlib 0.10 the callback fails on its
    way to Python, because of its argument, and C++ calls its terminate handler: so that leads here too. The thread
    which comes is JAX's own and waits here for ever; the watch ends the process.
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


def _unpack(text):
    answer = json.loads(text)
    if 'raised' not in answer:
        return answer['value']
    kind = getattr(errors, answer['raised'])
    raise kind.__new__(kind, answer['message'])  # its first argument is what str() shows


def _differences(all_facts):
    """['process 3 has config.seed=1, not 0', ...]: who differs from most, and in what."""
    lines = []
    for name in sorted(set().union(*all_facts)):
        values = [facts.get(name, 'nothing') for facts in all_facts]
        usual = collections.Counter(values).most_common(1)[0][0]
        lines += [
            f'process {index} has {name} {value}, the others {usual}'
            for index, value in enumerate(values)
            if value != usual
        ]
    return lines

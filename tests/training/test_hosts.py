"""Real processes that meet: what they agree on, and how they end when one of them is gone."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from rvm_jax.errors import UserError
from rvm_jax.training.hosts import ALONE, meet

PROCESS = """
import os, signal, sys, time, types
import jax, jax.numpy as jnp, numpy as np
from rvm_jax.errors import DataError, Stopped, UserError
from rvm_jax.training.hosts import meet
from rvm_jax.training.notes import Notes, first_words

def until_the_end():  # as in a step: the devices of all processes must take part
    mesh = jax.make_mesh((jax.device_count(),), ('data',))
    first_words(hosts, mesh)
    notes = Notes(mesh)
    print('in a collective', flush=True)
    while True:
        notes.exchange([hosts.index])
        time.sleep(0.05)

try:
    config = types.SimpleNamespace(start_timeout=int(sys.argv[1]), heartbeat=3, step_timeout=4)
    with meet(config) as hosts:
        print('met', flush=True)
        exec(sys.argv[2])
except (UserError, Stopped) as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""
LIMIT = 3 + 10  # seconds: the heartbeat above, and what issue and README allow on top


def start(*tasks, count=None, start_timeout=60):
    """Start a process for each task, a piece of Python that may use `hosts`."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    env |= {'RVM_COORDINATOR': f'127.0.0.1:{port}', 'RVM_NUM_PROCESSES': str(count or len(tasks))}
    return [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(start_timeout), task], env=env | {'RVM_PROCESS_ID': str(index)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index, task in enumerate(tasks)
    ]  # fmt: skip


def end(processes):
    """[(exit code, output)] of all."""
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def wait_for(processes, line):
    for process in processes:
        assert any(said.strip() == line for said in process.stdout), f'it ended before saying {line}'


def test_processes_decide_gather_and_tell_alike():
    task = """
print('decided', hosts.decide(lambda: {'step': 7 + hosts.index}), hosts.decide(lambda: None))
print('gathered', hosts.gather([hosts.index, 'x']))
if not hosts.is_first:
    hosts.post('failures', [hosts.index])
hosts.gather(None)
print('collected', sorted(hosts.collect('failures')) if hosts.is_first else '')
notes = Notes(jax.make_mesh((jax.device_count(),), ('data',)))
print('heard', [None if heard is None else heard.tolist() for heard in (notes.exchange([step, hosts.index]) for step in (1, 2, 3))])
def refuse():
    raise UserError('runs/a', 'is in use', 'wait')
hosts.decide(refuse)
"""  # noqa: E501
    for index, (code, output) in enumerate(end(start(task, task, task))):
        assert code == 2, output
        assert "decided {'step': 7} None" in output
        assert "gathered [[0, 'x'], [1, 'x'], [2, 'x']]" in output
        assert ('collected [[1], [2]]' in output) == (index == 0)
        assert 'heard [None, [[1, 0], [1, 1], [1, 2]], [[2, 0], [2, 1], [2, 2]]]' in output
        assert f'{f"process {index}: " if index else ""}runs/a: is in use; wait' in output


def test_processes_that_differ_end_before_they_train_and_say_who_differs_in_what():
    task = """
hosts.check_agreement({'jax': '1', 'data': 'abc'})
hosts.check_agreement({'jax': '1', 'config.seed': str(int(hosts.index == 2)), 'data': 'abc'})
print('trains')
"""
    for code, output in end(start(task, task, task)):
        assert code == 2, output
        assert 'process 2 has config.seed 1, the others 0; start all with the same command' in output
        assert 'trains' not in output


@pytest.mark.parametrize('victim', [0, 1])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_ends_the_other_soon_and_is_named(number, victim):
    processes = start('until_the_end()', 'until_the_end()')
    try:
        wait_for(processes, 'in a collective')
        processes[victim].send_signal(number)
        began = time.monotonic()
        output, _ = processes[1 - victim].communicate(timeout=60)
        assert time.monotonic() - began < LIMIT
        assert processes[1 - victim].returncode == 75, output
        assert f'rvm train: process {victim}' in output
        assert 'the same command line goes on from the last checkpoint' in output
        assert 'Traceback' not in output
        if number == signal.SIGSTOP:  # one that comes back later finds itself alone
            processes[victim].send_signal(signal.SIGCONT)
            output, _ = processes[victim].communicate(timeout=60)
            assert processes[victim].returncode == 75, output
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    'error, codes', [('ValueError("no such")', (1, 75)), ('DataError("a", "no such", "b")', (65, 65))]
)
def test_a_process_that_ends_by_itself_ends_the_others_with_its_reason(error, codes):
    (first, _), (other, output) = end(start(f'raise {error}', 'until_the_end()'))
    assert (first, other) == codes, output
    assert 'process 0 ended early: ' in output
    assert 'no such' in output


def test_a_process_without_a_step_for_too_long_shows_its_stacks_and_ends_all():
    stuck = 'hosts.stepped(5)\ndef wait_for_data(): time.sleep(100)\nwait_for_data()'
    for code, output in end(start('time.sleep(100)', stuck)):
        assert code == 75
        assert 'process 1 has done no step for 4 s after step 5' in output
    assert 'in wait_for_data' in output


def test_who_waits_in_vain_for_the_others_says_so():
    [(code, output)] = end(start('pass', count=2, start_timeout=3))
    assert code == 75
    assert 'process 0: the processes did not meet within 3 s' in output
    assert 'not all others came' in output
    assert len(output.splitlines()) == 1


def test_an_environment_that_makes_no_sense_is_refused(monkeypatch):
    for name, value, message in (
        ('RVM_DISTRIBUTED', 'yes', 'RVM_DISTRIBUTED=yes: is not known'),
        ('RVM_PROCESS_ID', '2', 'RVM_PROCESS_ID: set without RVM_COORDINATOR, RVM_NUM_PROCESSES'),
        ('RVM_NUM_PROCESSES', '2', 'set without RVM_COORDINATOR'),
        ('RVM_COORDINATOR', 'somewhere', 'RVM_PROCESS_ID=2: is no process of 2'),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=message), meet(None):
            pass
        monkeypatch.delenv('RVM_DISTRIBUTED', raising=False)
    monkeypatch.setenv('RVM_PROCESS_ID', '1')
    with pytest.raises(UserError, match='RVM_COORDINATOR=somewhere: has no port'), meet(None):
        pass


def test_one_process_needs_nobody():
    with meet(None) as hosts:
        assert hosts is ALONE
        assert hosts.decide(lambda: (1, 2)) == (1, 2)
        assert hosts.gather('a') == ['a']
        assert hosts.collect('failures') == []

"""Real processes that meet: what they agree on, and how they end when one of them is gone."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from rvm_jax.distributed.connect import connect
from rvm_jax.distributed.process_group import ALONE
from rvm_jax.errors import Stopped, UserError

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'process.py'
SAVE = 'import saves; saves.run(hosts, sys.argv[3])'
LIMIT = 3 + 10  # seconds: the heartbeat of the program, and what is allowed on top


def start(*tasks, count=None, start_timeout=60, workdir='', port=None):
    """Start a process for each task, a piece of Python that may use `hosts`."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = port or free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    env |= {'RVM_COORDINATOR': f'127.0.0.1:{port}', 'RVM_NUM_PROCESSES': str(count or len(tasks))}
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(start_timeout), task, str(workdir)],
            env=env
            | {'RVM_PROCESS_ID': str(index), 'RVM_PROCESS_FILE': f'{workdir}/process_{index}' if workdir else ''},
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
decide = hosts.broadcast_from_first
print('decided', decide(lambda: {'step': 7 + hosts.index}), decide(lambda: None))
print('gathered', hosts.all_gather([hosts.index, 'x']))
if not hosts.is_first:
    hosts.post('failures', [hosts.index])
hosts.all_gather(None)
print('collected', sorted(hosts.collect('failures')) if hosts.is_first else '')
notes = StepExchange(jax.make_mesh((jax.device_count(),), ('data',)))
for step in (1, 2):
    notes.send([step, hosts.index])
    print('heard', notes.read().tolist(), notes.read())
def refuse():
    raise UserError('runs/a', 'is in use', 'wait')
hosts.broadcast_from_first(refuse)
"""
    for index, (code, output) in enumerate(end(start(task, task, task))):
        assert code == 2, output
        assert "decided {'step': 7} None" in output
        assert "gathered [[0, 'x'], [1, 'x'], [2, 'x']]" in output
        assert ('collected [[1], [2]]' in output) == (index == 0)
        assert 'heard [[1, 0], [1, 1], [1, 2]] None' in output
        assert 'heard [[2, 0], [2, 1], [2, 2]] None' in output
        assert f'{f"process {index}: " if index else ""}runs/a: is in use; wait' in output


def test_processes_that_differ_end_before_they_train():
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
        assert 'the same command line resumes from the last checkpoint' in output
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
def test_a_process_that_ends_early_ends_the_others(error, codes):
    (first, _), (other, output) = end(start(f'raise {error}', 'until_the_end()'))
    assert (first, other) == codes, output
    assert 'process 0 ended early: ' in output
    assert 'no such' in output


def test_a_process_without_a_step_for_too_long_ends_all():
    stuck = 'hosts.stepped(5)\ndef wait_for_data(): time.sleep(100)\nwait_for_data()'
    for code, output in end(start('time.sleep(100)', stuck)):
        assert code == 75
        assert 'process 1 has done no step for 4 s after step 5' in output
    assert 'in wait_for_data' in output


def test_who_waits_in_vain_for_the_others_says_so():
    [(code, output)] = end(start('pass', count=2, start_timeout=3))
    assert code == 75
    assert 'process 0: the processes did not connect within 3 s' in output
    assert 'not all others connected' in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize('victim, reason', [(0, 'File too large'), (1, 'process 1: File too large')])
def test_a_save_that_fails_in_one_process_has_failed_in_all(tmp_path, monkeypatch, victim, reason):
    monkeypatch.setenv('VICTIM', str(victim))
    (code, first), (other_code, other) = end(start(SAVE, SAVE, workdir=tmp_path))
    assert (code, other_code) == (0, 0), first + other
    assert f'checkpoint 2 not written: {reason}' in first
    assert 'not written' not in other
    for output in (first, other):
        assert 'steps [1]' in output
        assert "restored 3 {'seed': 5} True [1, 3]" in output
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['1', '3']


def test_an_environment_that_makes_no_sense_is_refused(monkeypatch):
    for name, value, message in (
        ('RVM_DISTRIBUTED', 'yes', 'RVM_DISTRIBUTED=yes: is not known'),
        ('RVM_PROCESS_ID', '2', 'RVM_PROCESS_ID: set without RVM_COORDINATOR, RVM_NUM_PROCESSES'),
        ('RVM_NUM_PROCESSES', '2', 'set without RVM_COORDINATOR'),
        ('RVM_COORDINATOR', 'somewhere', 'RVM_PROCESS_ID=2: is not a process of 2'),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=message), connect(None):
            pass
        monkeypatch.delenv('RVM_DISTRIBUTED', raising=False)
    monkeypatch.setenv('RVM_PROCESS_ID', '1')
    with pytest.raises(UserError, match='RVM_COORDINATOR=somewhere: does not have a port'), connect(None):
        pass


def test_a_launcher_learns_which_process_a_host_has(tmp_path):
    assert [code for code, _ in end(start('pass', 'pass', workdir=tmp_path))] == [0, 0]
    assert (tmp_path / 'process_0').read_text() == '0 first\n'
    assert (tmp_path / 'process_1').read_text() == '1\n'


def test_a_port_that_is_still_held_may_pass():
    with socket.socket() as held:
        held.bind(('', 0))
        held.listen()
        [(code, output)] = end(start('pass', port=held.getsockname()[1]))
    assert code == Stopped.exit_code
    assert 'the port is in use, perhaps by an earlier run that is still ending; start again' in output


def test_one_process_needs_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv('RVM_PROCESS_FILE', str(tmp_path / 'process'))
    with connect(None) as hosts:
        assert hosts is ALONE
        assert (tmp_path / 'process').read_text() == '0 first\n'
        assert hosts.broadcast_from_first(lambda: (1, 2)) == (1, 2)
        assert hosts.all_gather('a') == ['a']
        assert hosts.collect('failures') == []

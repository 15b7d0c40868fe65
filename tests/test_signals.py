import pathlib
import signal
import subprocess
import sys

import pytest

from rvm_jax.errors import Interrupted, Stopped
from rvm_jax.signals import KINDS, StopRequest

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'wait_for_a_signal.py'


def start(*args, **options):
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, PROGRAM, *args], stdout=pipe, stderr=pipe, text=True, **options)
    assert process.stdout.readline() == 'ready\n'
    return process


@pytest.mark.parametrize(
    'number, name, code',
    [
        (signal.SIGTERM, 'SIGTERM', Stopped.exit_code),
        (signal.SIGHUP, 'SIGHUP', Stopped.exit_code),
        (signal.SIGINT, 'Ctrl-C', 130),
    ],
)
def test_a_signal_ends_the_run_after_its_step_is_saved(number, name, code):
    process = start()
    process.send_signal(number)
    out, said = process.communicate()
    assert process.returncode == code
    step = int(said.split('step ')[1].split(',')[0])
    assert said.strip() == f'{name}: finishing step {step}, then saving and stopping'
    assert f'saved\n{name}: saved at step ' in out
    assert 'the same command line resumes' in out


@pytest.mark.parametrize('first', [signal.SIGINT, signal.SIGTERM])
def test_a_further_ctrl_c_ends_at_once(first):
    process = start('slow')
    process.send_signal(first)
    assert process.stdout.readline() == 'asked\n'
    process.send_signal(signal.SIGTERM)  # changes nothing
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 'saved' not in out
    assert 'stopping now' in said


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGINT) != before[0]
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == 'SIGTERM'
        stop.agree([stop.kind])
        assert not isinstance(stop.ended('saved at step 3'), Interrupted)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_came_to_one_process_ends_all():
    stop = StopRequest()
    stop.agree([0, 0, 0])
    assert not stop.agreed
    stop.agree([KINDS.index('SIGHUP'), KINDS.index('SIGTERM'), 0])
    assert str(stop.ended('saved at step 3')).startswith('SIGTERM at process 1: saved at step 3')
    stop.agree([0, KINDS.index('SIGTERM'), KINDS.index('Ctrl-C')])
    assert isinstance(stop.ended('saved at step 3'), Interrupted)


def test_work_of_one_process_ends_where_it_checks():
    with StopRequest() as stop:
        stop.check('nothing is asked')
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match='SIGTERM: two videos are done; the same command line'):
            stop.check('two videos are done')


def test_a_closed_terminal_changes_nothing_under_nohup():
    process = start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == Stopped.exit_code and said.startswith('\nSIGTERM: finishing')

import json
import os
import signal
import socket
import time

import pytest

from rvm_jax.errors import UserError
from rvm_jax.storage import run_lock as module
from rvm_jax.storage.run_lock import confirm, run_lock


@pytest.fixture
def holder(tmp_path, start_takers):
    (process,), said = start_takers(tmp_path)
    assert said == ['mine\n']
    return process


def write_lock(workdir, silent=0, **owner):
    path = workdir / 'run.lock'
    path.write_text(json.dumps({'host': 'elsewhere', 'pid': 7, 'start': 'x', 'since': 'today'} | owner))
    os.utime(path, times=(time.time() - silent,) * 2)


def test_the_lock_names_its_owner_and_is_deleted_at_the_end(tmp_path):
    with run_lock(tmp_path):
        owner = json.loads((tmp_path / 'run.lock').read_text())
        assert (owner['host'], owner['pid']) == (socket.gethostname(), os.getpid())
        confirm(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_second_run_is_refused_and_told_by_whom(tmp_path, holder):
    with pytest.raises(UserError) as caught, run_lock(tmp_path):
        pass
    assert f'in use by process {holder.pid} on {socket.gethostname()} since 2' in str(caught.value)
    assert f'kill {holder.pid}' in caught.value.fix
    assert holder.poll() is None
    assert json.loads((tmp_path / 'run.lock').read_text())['pid'] == holder.pid


def test_a_killed_runs_lock_is_taken_over_with_a_notice(tmp_path, holder, capsys):
    holder.send_signal(signal.SIGKILL)  # not waited for: a zombie counts as dead
    while b') Z' not in open(f'/proc/{holder.pid}/stat', 'rb').read():
        time.sleep(0.01)
    with run_lock(tmp_path):
        confirm(tmp_path)
    assert f'taken over from process {holder.pid} on' in capsys.readouterr().err


def test_a_reused_process_number_does_not_hold_the_lock(tmp_path, holder, capsys):
    write_lock(tmp_path, host=socket.gethostname(), pid=holder.pid)
    with run_lock(tmp_path):
        pass
    assert 'taken over' in capsys.readouterr().err


def test_another_machines_lock_holds_while_it_shows_life(tmp_path):
    write_lock(tmp_path, silent=module.SILENCE - 60)
    with pytest.raises(UserError, match='process 7 on elsewhere since today; wait'), run_lock(tmp_path):
        pass


def test_another_machines_silent_lock_is_taken_over(tmp_path, capsys):
    write_lock(tmp_path, silent=module.SILENCE + 60)
    with run_lock(tmp_path):
        confirm(tmp_path)
    assert 'taken over from process 7 on elsewhere' in capsys.readouterr().err


def test_a_clock_that_jumps_does_not_make_a_live_lock_look_dead(tmp_path, monkeypatch):
    write_lock(tmp_path)
    monkeypatch.setattr(time, 'time', lambda: 10.0**10)
    with pytest.raises(UserError, match='elsewhere'), run_lock(tmp_path):
        pass


def test_an_unreadable_lock_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'SETTLE', 0.1)
    here = {'host': socket.gethostname(), 'pid': 7, 'start': 'x', 'since': 'today'}
    lies = [json.dumps(here | lie) for lie in ({'pid': '../self'}, {'pid': '7\0'}, {'pid': None}, {'since': []})]
    for text in ('', 'garbage', '[]', '{"host": 1}', '[' * 100_000, *lies):
        (tmp_path / 'run.lock').write_text(text)
        with run_lock(tmp_path):
            confirm(tmp_path)
        assert 'taken over from an unknown run' in capsys.readouterr().err


def test_a_pipe_in_place_of_a_lock_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'SETTLE', 0.1)
    os.mkfifo(tmp_path / 'run.lock')
    with run_lock(tmp_path):
        confirm(tmp_path)


def test_only_one_of_many_takes_a_dead_lock_over(tmp_path, start_takers):
    write_lock(tmp_path, host=socket.gethostname())
    assert start_takers(tmp_path, 6)[1] == ['mine\n'] + ['refused\n'] * 5


def test_a_lock_that_another_run_took_is_left_to_it(tmp_path):
    with run_lock(tmp_path):
        write_lock(tmp_path)
        with pytest.raises(UserError, match='process 7 on elsewhere'):
            confirm(tmp_path)
    assert (tmp_path / 'run.lock').exists()


def test_a_deleted_lock_is_put_back(tmp_path, capsys):
    with run_lock(tmp_path):
        os.unlink(tmp_path / 'run.lock')
        confirm(tmp_path)
        assert (tmp_path / 'run.lock').exists()
    assert 'put back' in capsys.readouterr().err


def test_the_lock_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'HEARTBEAT', 0.02)
    with run_lock(tmp_path):
        os.utime(tmp_path / 'run.lock', times=(1, 1))
        while os.stat(tmp_path / 'run.lock').st_mtime == 1:
            time.sleep(0.01)

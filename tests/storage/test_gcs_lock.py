import json
import os
import signal
import socket
import threading
import time

import pytest

from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import files, gcs, gcs_lock
from rvm_jax.storage.run_lock import confirm, run_lock


def write_lock(workdir, **owner):
    owner = {'host': 'elsewhere', 'pid': 7, 'start': 'x', 'since': 'today'} | owner
    files.write_json(f'{workdir}/run.lock', owner)
    return owner


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(gcs_lock, 'SILENCE', 0.2)
    monkeypatch.setattr(gcs_lock, 'LOOK', 0.02)


def test_the_lock_names_its_owner_and_is_deleted_at_the_end(store):
    with run_lock(store.path):
        owner = files.read_json(f'{store.path}/run.lock')
        assert (owner['host'], owner['pid']) == (socket.gethostname(), os.getpid())
        confirm(store.path)
    assert files.names(store.path) == []


def test_of_many_that_start_at_once_one_continues(store, start_takers):
    write_lock(store.path, host=socket.gethostname())  # of a process that is gone
    assert start_takers(store.path, 5)[1] == ['mine\n'] + ['refused\n'] * 4


def test_a_killed_runs_lock_is_taken_over_with_a_notice(store, start_takers, capsys):
    (process,), said = start_takers(store.path)
    assert said == ['mine\n']
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with run_lock(store.path):
        confirm(store.path)
    assert f'taken over from process {process.pid} on' in capsys.readouterr().err


def test_another_machines_silent_lock_is_taken_over(store, quick, capsys):
    write_lock(store.path)
    with run_lock(store.path):
        confirm(store.path)
    said = capsys.readouterr().err
    assert 'held by process 7 on elsewhere since today; watching' in said
    assert 'taken over from process 7 on elsewhere' in said


def test_another_machines_lock_holds_while_it_shows_life(store, quick, monkeypatch):
    monkeypatch.setattr(gcs_lock, 'SILENCE', 60)
    owner = write_lock(store.path)
    heartbeat = threading.Timer(0.1, write_lock, (store.path,), owner)
    heartbeat.start()
    with pytest.raises(UserError, match='in use by process 7 on elsewhere since today; wait'), run_lock(store.path):
        pass
    heartbeat.join()
    assert files.read_json(f'{store.path}/run.lock') == owner


def test_an_unreadable_lock_is_replaced(store, capsys):
    files.write(f'{store.path}/run.lock', b'[]')
    with run_lock(store.path):
        confirm(store.path)
    assert 'taken over from an unknown run' in capsys.readouterr().err


def test_a_lock_that_another_run_took_is_left_to_it(store):
    with run_lock(store.path):
        owner = write_lock(store.path)
        with pytest.raises(UserError, match='is no longer held by this run, but by process 7 on elsewhere'):
            confirm(store.path)
    assert files.read_json(f'{store.path}/run.lock') == owner


def test_a_deleted_lock_is_put_back(store, capsys):
    with run_lock(store.path):
        files.remove(f'{store.path}/run.lock')
        confirm(store.path)
        assert files.exists(f'{store.path}/run.lock')
    assert 'put back' in capsys.readouterr().err


@pytest.mark.parametrize('is_ours', [True, False])
def test_only_the_version_that_was_seen_is_released(store, monkeypatch, is_ours):
    path, read, owners = f'{store.path}/run.lock', gcs.read, []

    def read_before_it_is_replaced(path):
        found = read(path)
        if not owners:
            owners.append(write_lock(store.path, **(json.loads(found[0]) if is_ours else {})))
        return found

    gcs_lock.acquire(path)
    monkeypatch.setattr(gcs, 'read', read_before_it_is_replaced)
    gcs_lock.release(path)
    if is_ours:
        assert not files.exists(path)
    else:
        assert files.read_json(path) == owners[0]


def test_signs_of_life_change_the_version_and_nothing_else(store, monkeypatch):
    monkeypatch.setattr(gcs_lock, 'HEARTBEAT', 0.02)
    path = f'{store.path}/run.lock'
    with run_lock(store.path):
        before, version = gcs.read(path)
        while gcs.read(path)[1] == version:
            time.sleep(0.01)
        assert json.loads(gcs.read(path)[0]) == json.loads(before)


def test_a_write_whose_answer_was_lost_still_counts(store, monkeypatch):
    write, lost = gcs.write, [True]

    def write_and_lose(*args):
        write(*args)
        if lost and lost.pop():
            raise TimeoutError('timed out')

    monkeypatch.setattr(gcs, 'write', write_and_lose)
    with run_lock(store.path):
        confirm(store.path)


def test_a_store_that_is_away_at_the_start_is_reported(store):
    store.fail(1)
    with pytest.raises(Unavailable, match=r'run\.lock: does not answer'), run_lock(store.path):
        pass


def test_a_bucket_without_write_access_is_an_error(store):
    store.fail(1, status=403)
    with pytest.raises(UserError, match='cannot be written'), run_lock(store.path):
        pass

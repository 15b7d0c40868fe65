"""Checkpoints in a bucket, written by the real Orbax and TensorStore into a stand-in for Google Cloud Storage."""

import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.storage import checksums, files
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.training import checkpoint_files
from rvm_jax.training.checkpoint import Checkpoints, read_step


def state(step):
    mesh = jax.make_mesh((8,), ('fsdp',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
    whole = jax.device_put(jnp.arange(64.0).reshape(16, 4) + step, sharding)
    return {'params': {'w': whole, 'b': jnp.full(3, step, jnp.float32)}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save(workdir, *steps, keep=3):
    with run_lock(workdir), Checkpoints(workdir, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), {'step': step})


def restore(workdir):
    with run_lock(workdir), Checkpoints(workdir) as checkpoints:
        step, found, data = checkpoints.restore(abstract(state(0)))
    assert data == {'step': step}
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    return step


def test_a_run_in_a_bucket_resumes_where_it_stopped(store):
    save(store.path, 1, 2, 3, 4, keep=2)
    assert files.names(f'{store.path}/checkpoints') == ['3', '4']
    assert restore(store.path) == 4
    assert read_step(store.path, 3)[1]['b'].tolist() == [3, 3, 3]
    save(store.path, 5)
    assert restore(store.path) == 5


def test_a_manifest_is_there_before_a_step_is_committed(store, monkeypatch):
    seen = []
    write = checksums.write_manifest

    def look(folder, contents):
        seen.append(files.exists(f'{folder}/{checkpoint_files.COMMITTED}'))
        write(folder, contents)

    monkeypatch.setattr(checksums, 'write_manifest', look)
    save(store.path, 1)
    assert seen == [False]
    names = files.names(f'{store.path}/checkpoints/1')
    assert {checksums.NAME, checkpoint_files.COMMITTED} <= set(names)


@pytest.mark.parametrize('gone', [checkpoint_files.COMMITTED, checksums.NAME])
def test_an_unfinished_save_is_not_a_step(store, gone, capsys):
    save(store.path, 1, 2)
    files.remove(f'{store.path}/checkpoints/2/{gone}')
    assert restore(store.path) == 1
    is_left = files.exists(f'{store.path}/checkpoints/2')
    assert is_left == (gone == checksums.NAME)  # somebody else's, and named
    assert ('ignored, not steps of this run: 2' in capsys.readouterr().err) == is_left
    save(store.path, 2)
    assert restore(store.path) == 2


@pytest.mark.parametrize('damage', ['changed', 'cut', 'missing'])
def test_a_damaged_step_is_named_and_the_one_before_is_used(store, damage, capsys):
    save(store.path, 1, 2)
    folder = f'{store.path}/checkpoints/2'
    name = max((size, name) for name, size in files.files(folder).items() if name.startswith('state/'))[1]
    data = bytearray(files.read(f'{folder}/{name}'))
    data[len(data) // 2] ^= 1
    if damage == 'missing':
        files.remove(f'{folder}/{name}')
    else:
        files.write(f'{folder}/{name}', bytes(data[:-1] if damage == 'cut' else data))
    assert restore(store.path) == 1
    said = capsys.readouterr().err
    assert f'step 2 is damaged and not used: {folder}/{name}' in said


def test_a_copy_on_a_disk_is_checked_too(store, tmp_path):
    save(store.path, 1)
    for name in files.files(store.path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(tmp_path / name, files.read(f'{store.path}/{name}'))
    assert read_step(tmp_path)[0] == 1
    files.write(tmp_path / 'checkpoints/1/data/metadata', b'{}')
    with pytest.raises(UserError, match='all checkpoints are damaged'):
        read_step(tmp_path)


def test_a_flaky_store_costs_nothing_but_time(store):
    store.fail(0.05)
    save(store.path, 1, 2)
    assert restore(store.path) == 2
    assert store.failed > 2


def test_a_save_that_a_store_refuses_costs_a_line(store, capsys):
    with run_lock(store.path), Checkpoints(store.path) as checkpoints:
        checkpoints.save(1, state(1), {'step': 1})
        checkpoints.wait()
        store.fail(1, status=403, only='checkpoints/2')
        checkpoints.save(2, state(2), {'step': 2})
        checkpoints.wait()
        assert checkpoints.steps() == [1]
        store.fail(0)
        checkpoints.save(3, state(3), {'step': 3})
    said = capsys.readouterr().err
    assert 'checkpoint 2 not written: ' in said
    assert 'the next save tries again, failure 1 of 3' in said
    assert restore(store.path) == 3


KILLED = """
import sys, time
import jax.numpy as jnp
from rvm_jax.storage import checksums
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.storage.run_lock import run_lock

write = checksums.write_manifest
def pause(folder, contents):
    if sys.argv[2] == 'after': write(folder, contents)
    print('here', flush=True)
    time.sleep(60)

with run_lock(sys.argv[1]), Checkpoints(sys.argv[1]) as checkpoints:
    checksums.write_manifest = pause
    checkpoints.save_now(2, {'params': {'w': jnp.zeros(3)}}, {})
"""


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_run_that_is_killed_while_it_saves_leaves_no_step(store, moment, capsys):
    save(store.path, 1)
    with subprocess.Popen([sys.executable, '-c', KILLED, store.path, moment], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == 'here\n'
        run.send_signal(signal.SIGKILL)
    assert files.names(f'{store.path}/checkpoints') == ['1', '2']
    assert restore(store.path) == 1
    assert files.names(f'{store.path}/checkpoints') == ['1']
    assert 'taken over' in capsys.readouterr().err

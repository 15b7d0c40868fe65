import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import checksums
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.training import checkpoint_files, read_back
from rvm_jax.training.checkpoint import Checkpoints, describe, read_step

DATA = {'seed': 3, 'batch_size': 8, 'fingerprint': 'abc'}


def make_state(value, devices=8, width=16, dtype=jnp.float32):
    mesh = Mesh(np.array(jax.devices()[:devices]), ('data',))
    split, copied = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())
    params = {'encoder': {'kernel': value + jnp.arange(8.0 * width).reshape(8, width), 'bias': jnp.ones(3, dtype)}}
    optimizer = optax.apply_if_finite(optax.adamw(1e-3), 5)
    state = {'step': jnp.int32(value), 'params': params, 'opt_state': optimizer.init(params)}
    return jax.device_put(state, jax.tree.map(lambda x: split if x.ndim == 2 else copied, state))


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert left.sharding == right.sharding
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right), strict=True)


@pytest.fixture
def workdir(tmp_path):
    with run_lock(tmp_path):
        yield str(tmp_path)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A workdir with steps 1 and 2; copy it before damaging it."""
    folder = tmp_path_factory.mktemp('saved')
    with run_lock(folder), Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), DATA | {'step': step})
    return folder


@pytest.fixture
def two_steps(saved, workdir):
    shutil.copytree(saved / 'checkpoints', os.path.join(workdir, 'checkpoints'))
    return workdir


def files_of(workdir, step):
    top = os.path.join(workdir, 'checkpoints', str(step))
    return sorted(os.path.join(root, name) for root, _, names in os.walk(top) for name in names)


def biggest_file(workdir, step):
    return max(files_of(workdir, step), key=os.path.getsize)


def flip_bit(path):
    with open(path, 'r+b') as file:
        data = bytearray(file.read())
        data[len(data) // 2] ^= 1
        file.seek(0)
        file.write(data)


@pytest.mark.parametrize('devices', [8, 4, 1])
def test_a_state_comes_back_exactly_on_any_number_of_devices(two_steps, devices):
    with Checkpoints(two_steps) as checkpoints:
        step, state, data = checkpoints.restore(abstract(make_state(0, devices)))
    assert (step, data) == (2, DATA | {'step': 2})
    assert_same(state, make_state(2, devices))


def test_a_new_workdir_has_nothing_to_restore(workdir):
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0))) is None


def test_a_donated_step_cannot_change_what_is_being_saved(workdir):
    mesh = Mesh(np.array(jax.devices()), ('data',))
    layouts = {'split': PartitionSpec('data'), 'copied': PartitionSpec()}
    state = {k: jax.device_put(jnp.zeros((512, 256)), NamedSharding(mesh, s)) for k, s in layouts.items()}
    add_one = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(workdir) as checkpoints:
        for step in range(1, 4):
            state = add_one(state)
            target, value = abstract(state), 20 * (step - 1) + 1
            checkpoints.save(step, state, {})
            for _ in range(19):
                state = add_one(state)
            found = checkpoints.restore(target)[1]
            assert all((np.asarray(x) == value).all() for x in found.values()), step


def test_one_flipped_bit_in_any_file_is_never_loaded(two_steps, capsys):
    with Checkpoints(two_steps) as checkpoints:
        for path in files_of(two_steps, 2):
            flip_bit(path)
            step, state, _ = checkpoints.restore(abstract(make_state(0)))
            flip_bit(path)
            said = capsys.readouterr().err
            if os.path.dirname(path).endswith('/2') and not path.endswith(checksums.NAME):
                assert step == 2  # Orbax's own notes on the step as a whole, which a restore does not read
            else:
                assert step == 1, path
                assert path in said
            assert_same(state, make_state(step))
        assert checkpoints.restore(abstract(make_state(0)))[0] == 2


def test_a_short_empty_or_missing_file_costs_one_step(two_steps, capsys):
    path = biggest_file(two_steps, 2)
    size = os.path.getsize(path)
    for damage in (lambda: os.truncate(path, size - 1), lambda: os.truncate(path, 0), lambda: os.unlink(path)):
        damage()
        with Checkpoints(two_steps) as checkpoints:
            step, state, data = checkpoints.restore(abstract(make_state(0)))
        assert (step, data['step']) == (1, 1)
        assert_same(state, make_state(1))
        assert path in capsys.readouterr().err


def test_a_step_without_a_manifest_is_not_trusted(two_steps, capsys):
    os.unlink(os.path.join(two_steps, 'checkpoints', '2', checksums.NAME))
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore(abstract(make_state(0)))[0] == 1
    assert 'ignored, not steps of this run: 2\n' in capsys.readouterr().err


def test_a_run_does_not_start_over_when_every_step_is_damaged(two_steps):
    for step in (1, 2):
        flip_bit(biggest_file(two_steps, step))
    with Checkpoints(two_steps) as checkpoints, pytest.raises(UserError, match='all checkpoints are damaged'):
        checkpoints.restore(abstract(make_state(0)))


def test_a_run_does_not_start_over_when_no_step_has_a_manifest(two_steps):
    for step in (1, 2):
        os.unlink(os.path.join(two_steps, 'checkpoints', str(step), checksums.NAME))
    with Checkpoints(two_steps) as checkpoints, pytest.raises(UserError, match='were not written by rvm_jax'):
        checkpoints.restore(abstract(make_state(0)))


def test_a_step_asked_for_by_number_is_that_step_or_an_error(two_steps):
    flip_bit(biggest_file(two_steps, 2))
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)), step=1)[0] == 1
        with pytest.raises(UserError, match='step 2 is damaged'):
            checkpoints.restore(abstract(make_state(0)), step=2)
        with pytest.raises(UserError, match=r'step 7: is not in .*choose from \[1, 2\]'):
            checkpoints.restore(abstract(make_state(0)), step=7)


def test_a_state_that_does_not_fit_is_refused_with_reasons(two_steps):
    wanted = make_state(0, width=32, dtype=jnp.bfloat16)
    wanted['params'] = wanted['params'] | {'decoder': jnp.zeros(2)}
    del wanted['step']
    with Checkpoints(two_steps) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(abstract(wanted))
    message = str(caught.value)
    assert 'missing: params/decoder;' in message
    assert 'unexpected: step;' in message
    assert 'params/encoder/kernel [8, 16], now [8, 32]' in message
    assert 'params/encoder/bias float32, now bfloat16' in message
    assert '--config.init_from=' in message
    assert caught.value.exit_code == 2


def test_the_newest_steps_and_every_nth_stay(workdir):
    with Checkpoints(workdir, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, make_state(step), {})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 7, 8]
    assert sorted(os.listdir(os.path.join(workdir, 'checkpoints'))) == ['4', '7', '8']


def test_rotation_leaves_a_good_step_when_newer_ones_are_damaged(two_steps):
    with Checkpoints(two_steps) as checkpoints:
        checkpoints.save(9, make_state(9), {})
    flip_bit(biggest_file(two_steps, 9))
    flip_bit(biggest_file(two_steps, 2))
    with Checkpoints(two_steps, keep=1) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)))[0] == 1
        checkpoints.save_now(5, make_state(5), {})
    with Checkpoints(two_steps, keep=1) as checkpoints:
        step, state, _ = checkpoints.restore(abstract(make_state(0)))
    assert step == 5
    assert_same(state, make_state(5))


def test_a_damaged_step_is_replaced_when_training_comes_by_again(two_steps):
    flip_bit(biggest_file(two_steps, 2))
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)))[0] == 1
        checkpoints.save_now(2, make_state(2), {'again': True})
        step, state, data = checkpoints.restore(abstract(make_state(0)))
    assert (step, data) == (2, {'again': True})
    assert_same(state, make_state(2))


def test_leftovers_are_removed_and_strays_named_in_one_line(two_steps, capsys):
    folder = os.path.join(two_steps, 'checkpoints')
    shutil.copytree(f'{folder}/2', f'{folder}/3.orbax-checkpoint-tmp')
    shutil.copytree(f'{folder}/2', f'{folder}/0.orbax-checkpoint-tmp-deleted')  # killed while rotating
    os.makedirs(f'{folder}/foo')
    open(f'{folder}/notes.txt', 'w').close()
    with Checkpoints(two_steps) as checkpoints:
        assert checkpoints.restore(abstract(make_state(0)))[0] == 2
        checkpoints.save_now(3, make_state(3), {})
    assert sorted(os.listdir(folder)) == ['1', '2', '3', 'foo', 'notes.txt']
    assert capsys.readouterr().err == f'{folder}: ignored, not steps of this run: foo, notes.txt\n'


def test_a_step_just_restored_is_not_written_again(two_steps):
    with Checkpoints(two_steps) as checkpoints:
        _, state, data = checkpoints.restore(abstract(make_state(0)))
        before = os.stat(biggest_file(two_steps, 2))
        checkpoints.save_now(2, state, data)
        assert os.stat(biggest_file(two_steps, 2)) == before


def test_little_room_is_said_before_saving(workdir, monkeypatch, capsys):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save_now(1, make_state(1), {})
    assert 'checkpoint 1: ' in (said := capsys.readouterr().err)
    assert '0.0 MB free' in said


def test_a_run_that_lost_its_lock_writes_nothing(two_steps):
    with Checkpoints(two_steps) as checkpoints:
        with open(os.path.join(two_steps, 'run.lock'), 'w') as file:
            file.write('{"host": "elsewhere", "pid": 1, "start": "x", "since": "today"}')
        with pytest.raises(UserError, match='process 1 on elsewhere'):
            checkpoints.save(3, make_state(3), {})
        assert checkpoints.steps() == [1, 2]


def test_the_manifest_says_what_is_inside(two_steps):
    manifest = checksums.read_manifest(os.path.join(two_steps, 'checkpoints', '2'))
    assert manifest['step'] == 2
    assert manifest['code'].startswith('rvm_jax ')
    assert manifest['tree'] == describe(make_state(2))
    assert manifest['tree']['params/encoder/kernel'] == {'shape': [8, 16], 'dtype': 'float32'}


def test_parameters_are_read_without_the_optimizer(two_steps, capsys):
    step, params, position = read_step(two_steps)
    assert step == 2 and position == DATA | {'step': 2}
    np.testing.assert_array_equal(params['encoder']['kernel'], np.asarray(make_state(2)['params']['encoder']['kernel']))
    assert jax.tree.map(type, params) == {'encoder': {'bias': np.ndarray, 'kernel': np.ndarray}}
    assert read_step(two_steps, step=1)[0] == 1
    flip_bit(biggest_file(two_steps, 2))
    assert read_step(two_steps)[0] == 1
    assert 'step 2 is damaged' in capsys.readouterr().err


def test_a_disk_that_is_away_is_not_damage(two_steps):
    def away(_):
        raise OSError(errno.ESTALE, 'Stale file handle')

    with pytest.raises(Unavailable, match='does not answer'):
        read_step(two_steps, check=away)


def test_reading_parameters_where_there_are_none_is_an_error(tmp_path):
    with pytest.raises(UserError, match='does not have a checkpoint'):
        read_step(tmp_path)


def test_a_disk_that_is_away_after_a_failed_save_costs_a_line(two_steps, monkeypatch, capsys):
    def away(*_):
        monkeypatch.setattr(shutil, 'disk_usage', away)
        raise OSError(errno.EHOSTDOWN, 'Host is down')

    with Checkpoints(two_steps) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(checksums, 'write_manifest', away)
            checkpoints.save(3, make_state(3), {})
            checkpoints.wait()
        monkeypatch.undo()
        checkpoints.save_now(4, make_state(4), {})
        assert checkpoints.steps() == [1, 2, 4]
    said = capsys.readouterr().err
    assert 'checkpoint 3 not written: ' in said and ' MB, free space unknown); the next save tries again' in said


@pytest.mark.parametrize('name', ['run[1]', 'a]b[', 'lr*2', 'what?', '[!x]/**/[a-z]'])
def test_a_workdir_with_wildcards_in_its_path_can_be_read(tmp_path, name):
    workdir = tmp_path / name
    with run_lock(workdir), Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, make_state(1), DATA)
    with run_lock(workdir), Checkpoints(workdir) as checkpoints:
        step, state, data = checkpoints.restore(abstract(make_state(1)))
    assert (step, data) == (1, DATA)
    assert_same(state, make_state(1))
    kernel = read_step(str(workdir))[1]['encoder']['kernel']
    np.testing.assert_array_equal(kernel, make_state(1)['params']['encoder']['kernel'])


def test_a_bucket_with_wildcards_in_its_path_is_refused():
    for path in ('gs://bucket/runs[1]', 'gs://bucket/a*', 'gs://bucket/what?/r'):
        with pytest.raises(UserError, match=r'characters \* \? \['):
            checkpoint_files.check_place(path)
    checkpoint_files.check_place('gs://bucket/runs')


def test_a_first_save_that_cannot_be_read_back_is_no_save(workdir, capsys, monkeypatch):
    from etils.epath import gpath

    with Checkpoints(workdir) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(gpath.PosixGPath, 'glob', lambda self, pattern: iter(()))  # Orbax finds no part of its own
            checkpoints.save(1, make_state(1), DATA)
            checkpoints.wait()
        assert checkpoints.steps() == []
        assert 'checkpoint 1 not written: it cannot be read back' in capsys.readouterr().err
        checkpoints.save(2, make_state(2), DATA)
    assert checkpoints.steps() == [2]
    assert_same(checkpoints_state(workdir), make_state(2))


def checkpoints_state(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(abstract(make_state(1)))[1]


def test_what_is_read_back_is_compared_with_what_was_saved(saved):
    folder, state = str(saved / 'checkpoints' / '1'), make_state(1)
    known, data = read_back.sample(state), DATA | {'step': 1}
    read_back.check(folder, describe(state), known, data)
    wrong_type = describe(make_state(1, dtype=jnp.bfloat16))
    for tree, sample, position in (
        (wrong_type, known, data),
        (describe(state), (known[0], known[1] + 1), data),
        (describe(state), known, DATA),
    ):
        with pytest.raises(OSError, match='cannot be read back'):
            read_back.check(folder, tree, sample, position)

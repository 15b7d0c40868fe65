"""Real processes that are killed, or run out of room, while they save."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.storage.run_lock import run_lock
from rvm_jax.training.checkpoint import Checkpoints

PRELUDE = """
import resource, sys, time
import jax.numpy as jnp
import numpy as np
from rvm_jax.errors import UserError
from rvm_jax.training import checkpoint_files, checksums
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.storage.run_lock import run_lock

workdir = sys.argv[1]
noise = jnp.asarray(np.random.default_rng(0).standard_normal((256, 1024), np.float32))

def state(step):
    return {'params': {f'w{i}': noise + step for i in range(4)}}

def pause_here(*_):
    print('here', flush=True)
    time.sleep(60)
"""
MOMENTS = {
    'before the manifest': """
        write = checksums.write_manifest
        checksums.write_manifest = lambda folder, c: pause_here() if c['step'] == 3 else write(folder, c)
        """,
    'between the manifest and the commit': """
        write = checksums.write_manifest
        checksums.write_manifest = lambda folder, c: (write(folder, c), c['step'] == 3 and pause_here())
        """,
    'while an old step is deleted': """
        remove = checkpoint_files.shutil.rmtree
        def half(path, **options):
            if path.endswith('-deleted'):
                import os
                os.unlink(path + '/' + checksums.NAME)
                pause_here()
            remove(path, **options)
        checkpoint_files.shutil.rmtree = half
        """,
    'at any time': 'print("here", flush=True)',
}


def start(code, workdir):
    code = PRELUDE + textwrap.dedent(code)
    pipe = subprocess.PIPE
    environment = os.environ | {'XLA_FLAGS': ''}  # one device: a run goes on with another number than it began with
    return subprocess.Popen(
        [sys.executable, '-c', code, str(workdir)], stdout=pipe, stderr=pipe, text=True, env=environment
    )


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """For each moment, a workdir whose process was killed then."""
    folders = {moment: tmp_path_factory.mktemp('killed') for moment in MOMENTS}
    loop = """
        with run_lock(workdir), Checkpoints(workdir, keep=2) as checkpoints:
            for step in range(1, 1000):
                checkpoints.save(step, state(step), {'step': step})
        """
    processes = {m: start(textwrap.dedent(code) + textwrap.dedent(loop), folders[m]) for m, code in MOMENTS.items()}
    for moment, process in processes.items():
        assert process.stdout.readline() == 'here\n', process.communicate()[1]
        if moment == 'at any time':
            while len(os.listdir(folders[moment])) < 2 or len(os.listdir(folders[moment] / 'checkpoints')) < 3:
                time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return folders


@pytest.mark.parametrize('moment', MOMENTS)
def test_a_killed_run_resumes_from_its_last_complete_step(killed, moment, capsys):
    workdir = killed[moment]
    noise = np.random.default_rng(0).standard_normal((256, 1024), np.float32)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct(noise.shape, noise.dtype, sharding=sharding)
    target = {'params': {f'w{i}': leaf for i in range(4)}}
    unfinished = [name for name in os.listdir(workdir / 'checkpoints') if 'tmp' in name]
    with run_lock(workdir), Checkpoints(workdir) as checkpoints:
        assert not [name for name in os.listdir(workdir / 'checkpoints') if 'tmp' in name]
        step, state, data = checkpoints.restore(target)
        assert data == {'step': step}
        assert all((np.asarray(x) == noise + np.float32(step)).all() for x in state['params'].values())
        checkpoints.save_now(step + 1, state, {})
        assert max(checkpoints.steps()) == step + 1
    said = capsys.readouterr().err
    assert re.search(r'run.lock: taken over from process \d+ on .* since .*, which is gone', said)
    assert 'damaged' not in said
    if moment != 'at any time':
        assert unfinished
        assert step == (3 if moment == 'while an old step is deleted' else 2)


def test_a_full_disk_costs_a_line_and_the_next_save_works(tmp_path):
    process = start(
        """
        def limit(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        with run_lock(workdir), Checkpoints(workdir) as checkpoints:
            checkpoints.save_now(1, state(1), {})
            limit(100_000)
            checkpoints.save(2, state(2), {})
            checkpoints.wait()
            print(checkpoints.steps())
            limit(resource.RLIM_INFINITY)
            checkpoints.save(3, state(3), {})
            checkpoints.wait()
            print(checkpoints.steps())
            limit(100_000)
            try:
                for step in range(4, 9):
                    checkpoints.save(step, state(step), {})
            except UserError as error:
                print(step, error)
        print(checkpoints.steps())
        """,
        tmp_path,
    )
    out, said = process.communicate()
    lines = said.splitlines()
    assert process.returncode == 0, said
    assert [line.split(' (')[0] for line in lines] == [
        f'checkpoint {step} not written: File too large' for step in (2, 4, 5, 6)
    ]
    assert re.search(r'needs about 4.2 MB, [\d,.]+ MB free\); the next save tries again, failure 1 of 3', lines[0])
    assert 'failure 1 of 3' in lines[1]
    assert 'failure 3 of 3' in lines[3]
    first, second, given_up, last = out.splitlines()
    assert (first, second, last) == ('[1]', '[1, 3]', '[1, 3]')
    assert re.fullmatch(r'7 .*checkpoints/6: could not be saved \(File too large\); .* newest good step: 3', given_up)
    with run_lock(tmp_path), Checkpoints(tmp_path):
        assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['1', '3']


def test_a_last_save_that_fails_is_not_taken_for_saved(tmp_path):
    process = start(
        """
        with run_lock(workdir), Checkpoints(workdir) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            try:
                checkpoints.save_now(1, state(1), {})
            except UserError as error:
                print(error)
        """,
        tmp_path,
    )
    out, said = process.communicate()
    assert len(said.splitlines()) == 2, said
    assert 'newest good step: none' in out


def test_an_unwritable_workdir_is_an_error_at_the_start(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'), run_lock(tmp_path / 'file' / 'run'):
        pass

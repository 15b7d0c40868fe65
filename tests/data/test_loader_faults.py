"""The loader where disks fail, decoders hang and workers die."""

import errno
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import cloudpickle
import numpy as np
import psutil
import pytest

from rvm_jax.data import workers
from rvm_jax.data.batch import ARRAYS
from rvm_jax.data.loader import ClipMaker, Loader, make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.errors import DataError, Stopped
from rvm_jax.storage import files

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'read_a_batch.py'


@pytest.fixture
def data(data):
    data.num_workers = 1
    return data


def videos(path):
    return Mixture([Part(FolderSource(path), fps=10)])


def batches(path, data, steps=4, **how):
    with make_loader(videos(path), data, **{'seed': 1, 'batch_size': 4, **how}) as loader:
        return [next(loader) for _ in range(steps)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one['step'], one['failures']) == (other['step'], other['failures'])
        for name in ARRAYS:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture
def preload(failing_reads, monkeypatch):
    """preload(text, **how): in workers that start from now on, reads of files fail as `failing_reads` says."""

    def preload(*args, **how):
        for name, value in failing_reads(*args, **how).items():
            monkeypatch.setenv(name, value)

    return preload


def test_reads_that_fail_sometimes_change_no_batch(folder, data, preload):
    expected = batches(folder, data)
    assert [batch['read_retries'] for batch in expected] == [0] * 4
    data.num_workers = 2
    preload('.mp4', share=15)
    found = batches(folder, data)
    assert_same(found, expected)
    assert sum(batch['read_retries'] for batch in found) >= 3


def test_one_try_draws_what_the_next_one_would(folder, data, monkeypatch):
    class Flaky(ClipMaker):
        calls = 0

        def read(self, record, rng):
            Flaky.calls += 1
            clip = super().read(record, rng)
            if Flaky.calls % 2:
                raise OSError(errno.EIO, 'Input/output error')
            return clip

    monkeypatch.setattr(files, 'FIRST_WAIT', 0)
    mixture = videos(folder)
    how = {'seed': 1, 'order': mixture.order(1), 'is_training': True}
    for sample in range(3):
        found, expected = (kind(mixture, data, **how)(sample) for kind in (Flaky, ClipMaker))
        assert (found.pop('read_retries'), expected.pop('read_retries')) == (1, 0)
        for name in ('frames_THWC', 'deltas_F'):
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_read_that_never_returns_costs_only_its_file(folder, data, preload, tmp_path):
    for name in os.listdir(folder):
        shutil.copy(folder / name, tmp_path / name)
    data.decode_timeout = 1
    preload('/2.mp4', start=0, hang=1)
    found = batches(tmp_path, data, 2, batch_size=5)
    for batch in found:
        ((kind, path, reason),) = batch['failures']
        assert (kind, os.path.basename(path)) == ('failed', '2.mp4')
        assert re.fullmatch(r'takes too long to decode \(more than .* s, its worker was ended\)', reason)
        assert 2 not in batch['record_B']
        assert batch['notices'] == []


class StuckClips(ClipMaker):
    """Never comes back from record 2, as from a decoder that spins."""

    def read(self, record, rng):
        if record == 2 and record not in self.given_up:
            with workers.note(self.notes, record, self.mixture[record].name, 1 - workers.GRACE_S):
                re.match('(a+)+$', 'a' * 60 + 'b')  # in C, and holds the interpreter
        return super().read(record, rng)


def test_a_file_that_hangs_its_worker_is_given_up(folder, data, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or types.ModuleType(__name__))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    clips = StuckClips(videos(folder), data, seed=1, order=lambda sample: sample % 5, is_training=True)
    with Loader(clips, data, 5, 0, range(5)) as loader:
        found = [next(loader) for _ in range(2)]
    assert [b['step'] for b in found] == [0, 1]
    for b in found:
        ((kind, path, reason),) = b['failures']
        assert (kind, os.path.basename(path)) == ('failed', '2.mp4')
        assert reason == 'takes too long to decode (more than 30 s, its worker was ended)'
        assert b['record_B'][[0, 1, 3, 4]].tolist() == [0, 1, 3, 4] and b['record_B'][2] != 2


def kill_a_worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@pytest.mark.long
def test_a_killed_worker_is_replaced_once_and_then_ends_the_run(folder, data):
    data.num_workers = 0
    expected = batches(folder, data, 30)
    data.num_workers, found = 2, []
    with make_loader(videos(folder), data, seed=1, batch_size=4) as loader:
        found.append(next(loader))
        kill_a_worker()
        while len(found) < 30:
            found.append(next(loader))
        notices = [(b['step'], notice) for b in found for notice in b['notices']]
        kill_a_worker()
        with pytest.raises(Stopped, match=r'SIGKILL.*process \d+ at \S*/\d\.mp4; the second time in this run'):
            for _ in range(30):
                next(loader)
    assert multiprocessing.active_children() == []
    assert_same(found, expected)
    ((step, notice),) = notices
    pattern = r'a loader worker died \(SIGKILL, as where memory runs out\): process \d+ at (\S*/\d\.mp4); '
    assert re.fullmatch(pattern + f'new workers start at step {step}', notice)


def test_ctrl_c_ends_a_loader_whose_workers_hang(folder, tmp_path, failing_reads):
    environment = failing_reads('.mp4', start=0, hang=1, count=tmp_path / 'count')
    command = [sys.executable, PROGRAM, str(folder), '2']
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == 'started\n'
            while not (tmp_path / 'count').exists():  # a worker reads
                time.sleep(0.05)
            hanging = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT and 'KeyboardInterrupt' in errors
    _, alive = psutil.wait_procs(hanging, timeout=60)
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in alive)  # nobody may be there to bury them


def test_shared_memory_that_is_too_small_is_said_at_the_start(folder, tmp_path):
    mount = 'mount -t tmpfs -o size=64k none /dev/shm'
    unshare = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c']
    if shutil.which('unshare') is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip('no namespaces to mount a small /dev/shm in')
    run = f'{mount} && exec "$0" "$@"'
    command = [*unshare, run, sys.executable, PROGRAM, str(folder), '1']
    done = subprocess.run(command, capture_output=True, text=True)
    assert 'UserError: /dev/shm with 0 MB free: the loader needs 0 MB of shared memory' in done.stderr
    assert 'started' not in done.stdout


def test_the_memory_of_each_worker_can_be_asked(folder, data):
    data.num_workers = 2
    with make_loader(videos(folder), data, seed=1, batch_size=4) as loader:
        next(loader)
        found = loader.resident_bytes()
        assert found.keys() == {process.pid for process in multiprocessing.active_children()}
        assert all(10e6 < size < 4e9 for size in found.values())
    data.num_workers = 0
    with make_loader(videos(folder), data, seed=1, batch_size=4) as loader:
        assert loader.resident_bytes() == {}


def test_data_of_which_nothing_works_end_the_run(tmp_path, data):
    for i in range(3):
        (tmp_path / f'{i}.mp4').write_bytes(b'no video')
    for data.num_workers in (0, 1):
        with pytest.raises(DataError, match='3 videos in a row gave no clip'):
            batches(tmp_path, data)

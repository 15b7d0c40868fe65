import threading
import time

import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.training.batch_feed import LOOKED_AT, DataWait, RepeatedFrames


class Busy:
    """Numbers of a step that is done when `done` is set."""

    def __init__(self):
        self.done = threading.Event()

    def block_until_ready(self):
        self.done.wait()


@pytest.fixture
def wait(tmp_path):
    (tmp_path / 'a.mp4').touch()
    data = configs.default().data
    data.num_workers = 0
    wait = DataWait(data, Mixture([Part(FolderSource(tmp_path), fps=10)]))
    yield wait
    wait.close()


def test_only_the_time_without_a_step_in_flight_counts(wait):
    step, began = Busy(), time.perf_counter()
    assert wait.since(began) == 0  # nothing has run yet
    wait.watch(step)
    time.sleep(0.05)
    assert wait.since(began) == 0  # the device is at work, so nobody waits
    step.done.set()
    time.sleep(0.05)
    waited = wait.since(began)
    assert 0 < waited < 1e6 * (time.perf_counter() - began) - 45_000
    assert wait.since(time.perf_counter()) < waited


def test_the_process_that_waits_longest_counts_and_is_named_once(wait):
    for _ in range(10):
        wait.add(np.array([10_000, 200_000]))
    assert wait.share(seconds=10) == pytest.approx(0.2)
    line = wait.advice(wait.share(10))
    assert line.startswith('the devices of process 1 wait for data 20% of the time: raise --config.data.num_workers (0')
    assert 'rvm prepare' in line and '\n' not in line
    assert wait.advice(0.5) is None
    wait.restart()
    assert wait.share(10) == 0


def test_a_little_waiting_is_not_worth_a_word(wait):
    assert wait.advice(0.05) is None
    assert wait.advice(0.06).startswith('the devices wait for data 6% of the time')


def test_parts_with_repeated_source_frames_are_named_once(tmp_path):
    parts = []
    for name, fps in ('slow', 25.0), ('fast', 10.0):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.mp4').touch()
        parts.append(Part(FolderSource(tmp_path / name), fps))
    repeated = RepeatedFrames(Mixture(parts))
    frames_THWC = np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)
    both = np.stack([frames_THWC[[0, 0, 1, 1]], frames_THWC])  # 25 ticks a second of a video with 12 frames
    for _ in range(LOOKED_AT - 1):
        assert repeated.notices(np.array([0, 1]), both) == []
    (line,) = repeated.notices(np.array([0, 1]), both)
    assert line.startswith(f'{tmp_path}/slow: 50 of the first 50 clips show a source frame twice in a row')
    assert 'fewer than 25 frames per second' in line and line.endswith('config.data.mixture')
    assert repeated.notices(np.array([0, 1]), both) == []

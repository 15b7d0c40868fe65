"""Clips of the demo suite: rendered once, kept for the next model."""

import types

import pytest

from rvm_jax.probing.demo import demo_suite


class Bars:
    """A `rich` Progress of which only numbers are kept."""

    def __init__(self):
        self.totals, self.completed = {}, []

    def add_task(self, name, total):
        self.totals[name] = total
        return name

    def update(self, _, completed):
        self.completed.append(completed)


FEW = demo_suite.Suite('few', 1, 1, 1, attentive=False, baselines=False)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(demo_suite, 'PROPAGATED_FRAMES', 3)


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*.mp4')}


def test_clips_are_rendered_once_for_each_size(tmp_path):
    bars = Bars()
    demo_suite.Clips(FEW, str(tmp_path), 32, progress=bars)
    assert bars.totals == {'rendering clips': 3} and bars.completed == [1, 2, 3, 3]
    first = written(tmp_path)
    assert demo_suite.Clips(FEW, str(tmp_path), 48, progress=Bars()).train.example(0)['video_THWC'].shape[1:3] == (
        48,
        48,
    )
    assert demo_suite.Clips(FEW, str(tmp_path), 32, progress=Bars()).train.example(0)['video_THWC'].shape[1:3] == (
        32,
        32,
    )
    both = written(tmp_path)
    assert len(first) == 3 and len(both) == 6 and first.items() <= both.items()


def test_clips_of_another_seed_are_rendered_again(tmp_path, monkeypatch):
    demo_suite.Clips(FEW, str(tmp_path), 32, progress=Bars())
    before = {path: path.read_bytes() for path in written(tmp_path)}
    monkeypatch.setattr(demo_suite, 'SEED', 7)
    demo_suite.Clips(FEW, str(tmp_path), 32, progress=Bars())
    assert len(before) == 3 and all(path.read_bytes() != held for path, held in before.items())


def test_rendering_that_stops_keeps_finished_clips(tmp_path):
    with pytest.raises(InterruptedError):
        demo_suite.Clips(FEW, str(tmp_path), 32, progress=Bars(), check=stopping_at(2))
    first = written(tmp_path)
    demo_suite.Clips(FEW, str(tmp_path), 32, progress=Bars())
    assert len(first) == 2 and first.items() <= written(tmp_path).items()


def stopping_at(number):
    """A check that raises when it is called so often."""
    calls = types.SimpleNamespace(count=0)

    def check():
        calls.count += 1
        if calls.count == number:
            raise InterruptedError

    return check

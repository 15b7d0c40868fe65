import gc
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from rvm_jax.data import workers
from rvm_jax.data.batch import ARRAYS, check_batch
from rvm_jax.data.loader import make_eval_clips, make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource


def videos(path):
    return Mixture([Part(FolderSource(path), fps=10)])


def batches(source, data, steps=4, **how):
    with make_loader(source, data, **{'seed': 1, 'batch_size': 4, **how}) as loader:
        return [next(loader) for _ in range(steps)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one['step'], one['failures']) == (other['step'], other['failures'])
        for name in ARRAYS:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_is_what_it_says(folder, data):
    batch = batches(videos(folder), data, 1)[0]
    check_batch(batch, batch_size=4, num_source=2, num_target=3, image_size=32)
    with pytest.raises(ValueError, match='source_BTHWC'):
        check_batch(batch, batch_size=4, num_source=3, num_target=3, image_size=32)


def test_batches_do_not_depend_on_workers(folder, data):
    expected = batches(videos(folder), data)
    data.num_workers = 2
    assert_same(batches(videos(folder), data), expected)


def test_batches_do_not_depend_on_processes(folder, data):
    source = videos(folder)
    expected = batches(source, data)
    rows = [0, 1, 3], [2]  # as a mesh may have it: neither in one piece nor of one size
    parts = [batches(source, data, rows=these) for these in rows]
    order = np.argsort([*rows[0], *rows[1]])
    joined = [{**a, **{n: np.concatenate([a[n], b[n]])[order] for n in ARRAYS}} for a, b in zip(*parts, strict=True)]
    assert_same(joined, expected)


def test_step_n_is_the_same_after_a_restart(folder, data):
    expected = batches(videos(folder), data, 6)
    assert_same(batches(videos(folder), data, 2, start_step=4), expected[4:])
    data.num_workers = 1
    assert_same(batches(videos(folder), data, 2, start_step=4), expected[4:])


def test_every_video_is_used_once_an_epoch_in_a_new_order(folder, data):
    records = np.concatenate([b['record_B'] for b in batches(videos(folder), data, 10, batch_size=5)])
    epochs = records.reshape(10, 5)
    assert (np.sort(epochs, 1) == np.arange(5)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_seeds_and_steps_draw_different_clips(folder, data):
    source = videos(folder)
    first, second = batches(source, data, 2)
    other = batches(source, data, 1, seed=2)[0]
    for name in ('source_BTHWC', 'deltas_BF'):
        assert not np.array_equal(first[name], second[name])
        assert not np.array_equal(first[name], other[name])


def test_truncated_file_is_replaced_and_named(folder, data, tmp_path, write_video):
    for name in os.listdir(folder):
        (tmp_path / name).symlink_to(folder / name)
    bad = write_video(tmp_path / 'cut.mp4', 30)
    os.truncate(bad, os.path.getsize(bad) // 2)
    write_video(tmp_path / 'short.mp4', 2)
    os.mkfifo(tmp_path / 'pipe.mp4')
    found = batches(videos(tmp_path), data, 4, batch_size=8)
    failures = {(kind, os.path.basename(path), reason) for b in found for kind, path, reason in b['failures']}
    assert failures == {
        ('failed', 'cut.mp4', 'cannot be opened as a video (Invalid data found when processing input)'),
        ('failed', 'pipe.mp4', 'cannot be read (is not a regular file)'),
        ('too short', 'short.mp4', 'has too few frames (2, a clip needs 3)'),
    }
    names = videos(tmp_path).parts[0].source.names
    assert {names[record] for b in found for record in b['record_B']} == {f'{i}.mp4' for i in range(5)}
    assert_same(batches(videos(tmp_path), data, 4, batch_size=8), found)


def test_loader_leaves_no_open_files(folder, data):
    source = videos(folder)
    data.num_workers = 1
    batches(source, data, 1)  # what the first use keeps for good
    gc.collect()
    before = len(os.listdir('/proc/self/fd'))
    for data.num_workers in (0, 1):
        with make_loader(source, data, seed=1, batch_size=2) as loader:
            for _ in range(20):
                next(loader)
            notes = loader._clips.notes
        gc.collect()
        assert len(os.listdir('/proc/self/fd')) <= before
        assert multiprocessing.active_children() == []
        assert notes is None or not os.path.exists(notes)


def test_workers_end_by_themselves_when_a_loader_is_closed(folder, data, monkeypatch):
    killed = []
    monkeypatch.setattr(workers, 'PATIENCE_S', 20)
    monkeypatch.setattr(workers, '_kill', killed.append)
    data.num_workers = 2
    with make_loader(videos(folder), data, seed=1, batch_size=4) as loader:
        next(loader)
        time.sleep(0.5)  # until they can work no further ahead
    assert killed == []


def test_signals_for_the_whole_process_group_leave_workers_alone(folder, data):
    data.num_workers = 1
    with make_loader(videos(folder), data, seed=1, batch_size=4) as loader:
        next(loader)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(multiprocessing.active_children()[0].pid, number)
        for _ in range(5):
            next(loader)


def test_evaluation_clips_are_fixed_and_cropped_at_the_center(folder, data, read_number):
    source = videos(folder)
    found = list(make_eval_clips(source, data, num_clips=9, batch_size=4))
    assert [b['record_B'].tolist() for b in found] == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert_same(list(make_eval_clips(source, data, num_clips=9, batch_size=4)), found)
    middle = found[0]['source_BTHWC'][:, :, -1].mean((-1, -2))  # the gray lower half of every picture
    assert np.abs(middle - 90).max() < 10

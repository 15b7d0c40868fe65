"""A small folder of videos becomes shards in the workdir, and a run keeps to what it began with."""

import shutil

import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.data.loader import make_loader
from rvm_jax.data.open_data import open_training
from rvm_jax.data.prepare.small_folder import with_shards
from rvm_jax.errors import DataError, UserError
from rvm_jax.synthetic.synthetic_videos import write_videos


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    write_videos(folder, 3, seed=0, num_frames=24, height=64, width=64, fps=10, num_workers=0)
    return folder


def recipe(path, *overrides):
    return configs.load('configs/tiny.py', [f'data.path={path}', 'data.num_workers=0', 'steps=100', *overrides])


def fresh(config, workdir, is_alone=True):
    return with_shards(config, str(workdir), open_training(config.data), is_begun=False, is_alone=is_alone)


def resumed(config, workdir, is_alone=True):
    return with_shards(config, str(workdir), open_training(config.data), is_begun=True, is_alone=is_alone)


def test_the_shards_give_the_same_clips(videos, tmp_path, capsys):
    config = recipe(videos)
    shards = fresh(config, tmp_path)
    assert f'{videos}: 3 videos become shards in {tmp_path}/shards, which are read' in capsys.readouterr().err
    assert shards.path == f'{tmp_path}/shards'
    batches = []
    for opened in (open_training(config.data), shards):
        with make_loader(opened, config.data, seed=0, batch_size=8) as loader:
            batches.append(next(loader))
    one, other = batches
    np.testing.assert_array_equal(one['deltas_BF'], other['deltas_BF'])
    np.testing.assert_array_equal(one['record_B'], other['record_B'])
    difference = np.abs(one['source_BTHWC'].astype(int) - other['source_BTHWC'])
    assert 0 < difference.mean() < 5  # of 255: what JPEG loses in small saturated pictures


def test_a_run_keeps_to_what_it_began_with(videos, tmp_path):
    config = recipe(videos)
    assert resumed(config, tmp_path).path == str(videos)  # it began without shards
    shards = fresh(config, tmp_path).path
    made = (tmp_path / 'shards' / 'manifest.json').stat().st_mtime_ns
    for is_alone in (True, False):
        assert resumed(recipe(videos, 'data.prepare_gb=0'), tmp_path, is_alone).path == shards
    assert (tmp_path / 'shards' / 'manifest.json').stat().st_mtime_ns == made


def test_other_videos_make_other_shards_where_that_is_allowed(videos, tmp_path):
    folder = tmp_path / 'videos'
    shutil.copytree(videos, folder)
    fresh(recipe(folder), tmp_path)
    (folder / 'clip_00000.mp4').unlink()
    with pytest.raises(UserError, match=r'is not what .*shards were made of.*allow_change=true, or start a new run'):
        resumed(recipe(folder), tmp_path)
    changed = recipe(folder, 'data.allow_change=true')
    assert len(resumed(changed, tmp_path)) == 2
    assert resumed(recipe(folder, 'data.fps=5', 'data.allow_change=true'), tmp_path, is_alone=False).path == str(folder)
    assert len(fresh(recipe(videos), tmp_path)) == 3  # of a start that never began: made anew


@pytest.mark.parametrize('override', ['steps=3', 'data.prepare_gb=0', 'data.prepare_gb=1e-6'])
def test_what_gains_nothing_or_is_large_is_read_as_it_is(videos, tmp_path, override):
    assert fresh(recipe(videos, override), tmp_path).path == str(videos)
    assert fresh(recipe('', f'data.mixture=[("{videos}", 10.0, 1.0)]'), tmp_path).path == str(videos)
    assert fresh(recipe(videos), tmp_path, is_alone=False).path == str(videos)
    assert not any(tmp_path.iterdir())


def test_damaged_videos_are_named_and_counted_and_short_ones_are_no_damage(videos, tmp_path, capsys):
    folder = tmp_path / 'videos'
    shutil.copytree(videos, folder)
    write_videos(folder / 'short', 2, seed=0, num_frames=4, height=64, width=64, fps=10, num_workers=0)
    assert len(fresh(recipe(folder), tmp_path / 'one')) == 3
    assert f'2 videos cannot be used; {tmp_path}/one/shards/skipped.json says why' in capsys.readouterr().err
    (folder / 'broken.mp4').write_bytes(b'not a video')
    reason = '1 of 6 videos: could not be read, more than the 10.0% allowed.*two/shards/skipped.json'
    for _ in range(2):  # also when the shards are there
        with pytest.raises(DataError, match=reason):
            fresh(recipe(folder), tmp_path / 'two')
    assert len(fresh(recipe(folder, 'data.max_failures=0.5'), tmp_path / 'two')) == 3

import json
import os
import shutil

import cloudpickle
import numpy as np
import pytest

from rvm_jax import cli
from rvm_jax.data import shard_format
from rvm_jax.data.batch import ARRAYS
from rvm_jax.data.loader import make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.open_data import open_held_out, open_source, open_training
from rvm_jax.data.sources import shard_source
from rvm_jax.data.sources.shard_source import ShardSource
from rvm_jax.errors import DataError, UserError


@pytest.fixture(scope='module')
def videos(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp('videos')
    for i in range(6):
        write_video(folder / f'{i}.mp4', 40 + 20 * i, fps=20, size=(80, 64))
    return folder


@pytest.fixture(scope='module')
def prepared(tmp_path_factory, videos):
    output = tmp_path_factory.mktemp('shards') / 'shards'
    prepare(videos, output, '--val', '0', '--quality', '95')
    return output


@pytest.fixture
def folder(tmp_path, prepared):
    return shutil.copytree(prepared, tmp_path / 'shards')


def prepare(videos, output, *flags):
    assert cli.run('prepare', ['--input', str(videos), '--output', str(output), '--workers', '2', *flags]) == 0


def batches(source, data, steps=4, fps=10):
    with make_loader(Mixture([Part(source, fps)]), data, seed=1, batch_size=4) as loader:
        return [next(loader) for _ in range(steps)]


@pytest.mark.parametrize('flags', [[], ['--codec', 'h264'], ['--codec', 'h264', '--group', '32'], ['--fps', '20']])
def test_training_sees_the_same_clips_as_from_the_files(tmp_path, videos, data, flags):
    prepare(videos, tmp_path / 'shards', '--val', '0', *flags)
    fps = 20 if '--fps' in flags else 10
    pairs = zip(
        batches(open_source(str(videos), 'train'), data, fps=fps),
        batches(open_source(str(tmp_path / 'shards'), 'train'), data, fps=fps),
        strict=True,
    )
    for files, found in pairs:
        for name in ('deltas_BF', 'record_B'):
            np.testing.assert_array_equal(found[name], files[name])
        for name in ('source_BTHWC', 'target_BFHWC'):
            errors = np.abs(found[name].astype(int) - files[name]).mean((2, 3, 4))
            assert errors.max() < 6 and errors.mean() < 3  # another frame: about 25


def test_a_lower_frame_rate_is_taken_from_a_higher_one(videos, prepared, read_number):
    source = open_source(str(prepared), 'train')
    with source[3].open(1) as sequence:
        assert (sequence.count(10), sequence.count(5), sequence.count(2.5)) == (50, 25, 13)
        numbers = [read_number(frame) for frame in sequence.pictures([0, 1, 2, 7], fps=5).decode()]
    assert numbers == [0, 4, 8, 28]


def test_each_split_is_a_source_and_an_empty_one_is_said(tmp_path, videos, data, prepared):
    for val in ('0.5', '0.9', '0.1'):  # which of so few videos are held out hangs on the encoder's version
        shutil.rmtree(tmp_path / 'shards', ignore_errors=True)
        prepare(videos, tmp_path / 'shards', '--val', val)
        splits = shard_format.read_manifest(tmp_path / 'shards')['splits']
        if splits['val']['videos'] and splits['train']['videos']:
            break
    data.path = data.eval_path = str(tmp_path / 'shards')
    assert len(open_training(data)) == splits['train']['sequences']
    assert len(open_held_out(data)) == splits['val']['sequences']
    with pytest.raises(UserError, match='does not have a val split; prepare it with a larger --val'):
        open_source(str(prepared), 'val')


def test_more_frames_a_second_than_there_are_are_refused(prepared, data):
    data.path, data.fps = str(prepared), 25.0
    with pytest.raises(UserError, match=r'holds 10 frames per second, fewer than the 25 of config.data.fps'):
        open_training(data)


def test_a_shard_that_was_cut_off_or_is_gone_is_named_at_once(folder):
    name = 'train-00000.array_record'
    os.truncate(folder / name, os.path.getsize(folder / name) // 2)
    with pytest.raises(DataError, match=rf'{name}: has [\d,]+ bytes instead of [\d,]+; restore the file'):
        ShardSource(folder, 'train')
    os.remove(folder / name)
    with pytest.raises(DataError, match=f'{name}: is in the manifest but cannot be read'):
        ShardSource(folder, 'train')


def test_unfinished_shards_are_told_from_a_folder_of_videos(folder):
    os.remove(folder / 'manifest.json')
    (folder / 'unfinished').mkdir()
    (folder / 'unfinished' / 'plan.json').touch()
    with pytest.raises(UserError, match=r'manifest\.json: is missing; run the same rvm prepare command again'):
        open_source(str(folder), 'train')


def test_a_flipped_byte_costs_the_clips_that_need_it(folder, data):
    path = folder / 'train-00000.array_record'
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    found = batches(ShardSource(folder, 'train'), data, steps=40)
    failures = [failure for batch in found for failure in batch['failures']]
    assert 0 < len(failures) < 40
    assert len({name for _, name, _ in failures}) == 1
    kind, name, reason = failures[0]
    assert kind == 'failed' and name.startswith(f'{path}#') and reason.startswith('is damaged (Corrupted')


def test_a_shard_removed_during_the_run_is_named(folder, data):
    source = ShardSource(folder, 'train')
    batches(source, data, steps=1)
    kept_open = batches(source, data, steps=1)
    os.remove(folder / 'train-00000.array_record')
    for name in ARRAYS:  # a shard that is open stays readable
        np.testing.assert_array_equal(batches(source, data, steps=1)[0][name], kept_open[0][name])
    with pytest.raises(DataError, match=r'train-00000.array_record#\d: cannot be read \(No such file'):
        batches(cloudpickle.loads(cloudpickle.dumps(source)), data)


def test_few_shards_stay_open(tmp_path, videos, monkeypatch):
    prepare(videos, tmp_path / 'shards', '--val', '0', '--shard-mb', '1', '--quality', '100', '--short-side', '0')
    manifest = json.loads((tmp_path / 'shards' / 'manifest.json').read_text())
    source = ShardSource(tmp_path / 'shards', 'train')
    monkeypatch.setattr(shard_source, 'MAX_OPEN', 1)
    before = len(os.listdir('/proc/self/fd'))
    for index in [*range(6)] * 3:
        with source[index].open(1) as sequence:
            sequence.pictures([0], 10).decode()
        assert len(os.listdir('/proc/self/fd')) <= before + 1
    assert [source[i].describe()['name'] for i in range(6)] == [f'{i}.mp4' for i in range(6)]
    assert len(manifest['shards']) >= 1


def test_fingerprints_follow_the_content_alone(folder, prepared, tmp_path, videos):
    assert ShardSource(folder, 'train').fingerprint() == ShardSource(prepared, 'train').fingerprint()
    prepare(videos, tmp_path / 'other', '--val', '0', '--quality', '50')
    assert ShardSource(tmp_path / 'other', 'train').fingerprint() != ShardSource(folder, 'train').fingerprint()


def test_pieces_of_long_videos_are_kept_evenly_spread(tmp_path, videos, read_number):
    prepare(videos, tmp_path / 'shards', '--val', '0', '--clips-per-video', '2', '--clip-frames', '16')
    source = ShardSource(tmp_path / 'shards', 'train')
    assert len(source) == 10  # two videos have 20 and 30 frames, fewer than two clips
    named = [source[index].describe() for index in range(10)]
    assert named[:3] == [
        {'name': '0.mp4', 'start_s': 0, 'frames': 20, 'height': 64, 'width': 80},
        {'name': '1.mp4', 'start_s': 0, 'frames': 30, 'height': 64, 'width': 80},
        {'name': '2.mp4 from 0 s', 'start_s': 0, 'frames': 16, 'height': 64, 'width': 80},
    ]
    last = source[len(source) - 1]
    assert last.describe()['name'] == '5.mp4 from 5.4 s'
    with last.open(1) as sequence:
        numbers = [read_number(frame) for frame in sequence.pictures([0, 15], 10).decode()]
    assert numbers == [108, 138]


def test_a_piece_named_in_a_csv_starts_where_it_says(tmp_path, videos, read_number):
    (tmp_path / 'pieces.csv').write_text(f'path,start,end\n{videos}/5.mp4,2,3.5\n{videos}/5.mp4,6.05,\n')
    prepare(tmp_path / 'pieces.csv', tmp_path / 'shards', '--val', '0', '--short-side', '32')
    source = ShardSource(tmp_path / 'shards', 'train')
    found = []
    for index in range(2):
        with source[index].open(1) as sequence:
            frames = sequence.pictures([0, sequence.count(10) - 1], 10)
            found.append([read_number(frame) for frame in frames.decode()])
            assert (frames.height, frames.width) == (32, 40)
    assert found == [[40, 68], [120, 138]]

"""Folders of frames in training and in `rvm prepare`, as videos among others."""

import cv2
import numpy as np
import pytest

from rvm_jax import cli, config
from rvm_jax.data.loader import make_loader
from rvm_jax.data.open_data import open_source, open_training
from rvm_jax.data.prepare.inputs import list_tasks


@pytest.fixture
def folder(tmp_path, draw_number):
    """Four folders of 24 frames and more: two are sound, one lacks a frame, one has a single frame that is damaged."""
    for place, name in enumerate(('cut', 'gap', 'one', 'two')):
        path = tmp_path / 'frames' / name
        path.mkdir(parents=True)
        for number in range(24):
            cv2.imwrite(str(path / f'{number:03}.png'), draw_number(100 * place + number, 80, 64)[..., ::-1])
    (tmp_path / 'frames' / 'gap' / '010.png').unlink()
    (tmp_path / 'frames' / 'cut' / '005.png').write_bytes(b'')
    return tmp_path / 'frames'


def settings(**values):
    data = config.default().data
    data.update(
        {'image_size': 40, 'num_source': 2, 'num_target': 2, 'clip_frames': 12, 'min_gap': 1, 'max_gap': 9,
         'crop_area': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip': 0.0, **values}
    )  # fmt: skip
    return data


@pytest.mark.parametrize('num_workers', [0, 1])
def test_clips_come_from_sound_frames_and_the_others_are_named(folder, num_workers):
    data = settings(path=str(folder), num_workers=num_workers)
    with make_loader(open_training(data), data, seed=1, batch_size=16) as loader:
        batch = next(loader)
    reasons = {name.rpartition('/')[2]: reason for _, name, reason in batch['failures']}
    assert reasons['gap'] == 'lacks frames (009.png is followed by 011.png)'
    assert set(reasons) <= {'gap', 'cut'} and set(batch['record_B']) <= {0, 2, 3}
    if 'cut' in reasons:
        assert reasons['cut'].startswith('is damaged (005.png ')


def test_the_rate_that_is_taken_is_said_once(folder, caplog):
    open_training(settings(path=str(folder), fps=12.0))
    assert '4 folders of frames, such as ' in caplog.text and 'have no fps.txt' in caplog.text
    assert 'taken as 12 per second (config.data.fps)' in caplog.text
    caplog.clear()
    (folder / 'fps.txt').write_text('12')
    open_training(settings(path=str(folder)))
    assert not caplog.text


def test_prepared_frames_are_the_frames(folder, tmp_path, capsys, read_number):
    words = '--input', str(folder), '--output', str(tmp_path / 'out'), '--val', '0', '--workers', '1', '--fps', '12'
    assert cli.run('prepare', [*words]) == 0
    shown = capsys.readouterr()
    assert 'train 2 videos' in shown.out and '2 left out' in shown.out
    assert 'taken as 12 per second (--fps)' in shown.err
    skipped = (tmp_path / 'out' / 'skipped.json').read_text()
    assert '"lacks frames"' in skipped and '"is damaged"' in skipped
    source = open_source(str(tmp_path / 'out'), 'train')
    with source[0].open(10.0) as video:
        assert video.count(12) == 24
        assert [read_number(frame) for frame in video.pictures([0, 7, 23], 12).decode()] == [200, 207, 223]


def test_a_folder_stays_in_its_split_wherever_it_is(folder, tmp_path):
    def sides(path):
        return {task.name.rpartition('/')[2]: task.split for task in list_tasks(str(path), 0.5)[0]}

    before = sides(folder)
    folder.rename(tmp_path / 'moved')
    assert sides(tmp_path / 'moved') == before
    (tmp_path / 'moved' / 'gap').rename(tmp_path / 'moved' / 'other')
    assert sides(tmp_path / 'moved')['other'] == before['gap']


def test_a_csv_names_a_folder_whole_or_by_seconds(folder, tmp_path, capsys):
    (tmp_path / 'list.csv').write_text('path,start,end\nframes/one,,\nframes/two,0.5,1.5\n')
    words = '--input', str(tmp_path / 'list.csv'), '--output', str(tmp_path / 'out'), '--val', '0', '--workers', '1'
    assert cli.run('prepare', [*words, '--min-frames', '4']) == 0
    assert 'train 1 video, 1 clip' in capsys.readouterr().out
    assert 'is a folder of frames without fps.txt' in (tmp_path / 'out' / 'skipped.json').read_text()


def test_two_rates_give_the_same_frames_where_none_is_stated(folder):
    frames = []
    for fps in (5.0, 30.0):
        data = settings(path=str(folder / 'one'), fps=fps, num_workers=0)
        with make_loader(open_training(data), data, seed=3, batch_size=2) as loader:
            frames.append(next(loader)['source_BTHWC'])
    np.testing.assert_array_equal(*frames)

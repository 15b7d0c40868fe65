import os
import shutil

import pytest

from rvm_jax.data.prepare.inputs import list_tasks
from rvm_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'videos').mkdir()
    for i in range(300):
        (tmp_path / 'videos' / f'{i:03}.mp4').write_bytes(str(i).encode() * 20)
    return tmp_path / 'videos'


def sides(path, val=0.3):
    return {os.path.basename(task.name): task.split for task in list_tasks(str(path), val)[0]}


def test_a_video_stays_in_its_split_whatever_else_is_there(folder, tmp_path):
    before = sides(folder)
    assert 60 < list(before.values()).count('val') < 120
    for i in range(0, 300, 2):
        (folder / f'{i:03}.mp4').unlink()
    (folder / 'new.mp4').write_bytes(b'new')
    shutil.move(folder, tmp_path / 'moved')
    after = sides(tmp_path / 'moved')
    assert all(before[name] == side for name, side in after.items() if name != 'new.mp4')
    assert {name for name, side in sides(tmp_path / 'moved', 0.2).items() if side == 'val'} < {
        name for name, side in after.items() if side == 'val'
    }


def test_copies_of_a_video_are_on_the_same_side(folder):
    for i in range(300):
        shutil.copy(folder / f'{i:03}.mp4', folder / f'copy_{i:03}.mp4')
    found = sides(folder)
    assert all(found[f'{i:03}.mp4'] == found[f'copy_{i:03}.mp4'] for i in range(300))


def test_nothing_is_held_out_unless_asked(folder):
    assert set(sides(folder, 0).values()) == {'train'}


def test_a_csv_names_pieces_of_videos(folder, tmp_path):
    listing = tmp_path / 'pieces.csv'
    listing.write_text('id, path, start, end\ncat, videos/007.mp4,1.5,4\n,videos/007.mp4,,2\n,"videos/008.mp4",10,\n')
    tasks, outside = list_tasks(str(listing), 0.5)
    assert [(task.name, task.start_s, task.end_s) for task in tasks] == [
        ('videos/007.mp4', 1.5, 4), ('videos/007.mp4', None, 2), ('videos/008.mp4', 10, None)]  # fmt: skip
    assert tasks[0].path == str(folder / '007.mp4') and outside == []
    assert tasks[0].split == tasks[1].split


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'does not have a column named path'),
        ('file,start\na.mp4,1\n', 'does not have a column named path'),
        ('path\n', 'names no video'),
        ('path,start\na.mp4,soon\n', "line 2: 'soon' is not a time"),
        ('path,start\na.mp4,-1\n', "line 2: '-1' is not a time"),
        ('path,start,end\na.mp4,3,2\n', 'line 2: ends before it starts'),
        ('path,start_s\na.mp4,3\n', 'has an unknown column start_s; call it start or end'),
        ('start,end,path\n1,2\n', 'line 2: does not have a path'),
    ],
)
def test_a_csv_that_makes_no_sense_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / 'pieces.csv').write_text(text)
    with pytest.raises(UserError, match=message):
        list_tasks(str(tmp_path / 'pieces.csv'), 0)


def test_paths_outside_the_lists_folder_are_resolved_and_named(folder, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    shutil.copy(folder / '000.mp4', elsewhere / 'a.mp4')
    (folder / 'link.mp4').symlink_to(elsewhere / 'a.mp4')
    (folder / 'list.txt').write_text(f'001.mp4\n../elsewhere/a.mp4\n{elsewhere}/a.mp4\nlink.mp4\n')
    tasks, outside = list_tasks(str(folder / 'list.txt'), 0)
    assert [os.path.realpath(task.path) for task in tasks] == [str(folder / '001.mp4'), *[str(elsewhere / 'a.mp4')] * 3]
    assert outside == ['../elsewhere/a.mp4', f'{elsewhere}/a.mp4', 'link.mp4']

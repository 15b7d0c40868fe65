import csv
import io
import logging
import re
import shutil
import types

import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.own_videos import OwnVideos
from rvm_jax.synthetic.scenes import CLASSES
from rvm_jax.synthetic.synthetic_videos import write_videos

KINDS = {'video_THWC': ((4, 32, 32, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'num_frames': 4, 'image_size': 32}
EACH = 4  # videos of a class
MOTIONS = ('left', 'right', 'up')


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    """{motion: paths of its videos}, 10 frames at 10 frames per second."""
    folder = tmp_path_factory.mktemp('rendered')
    found = {}
    for seed, motion in enumerate(MOTIONS):
        found[motion] = write_videos(
            folder / motion, EACH, seed=seed, num_frames=10, height=32, width=48, num_workers=0,
            scene_options={'motion_class': CLASSES.index(motion)},
        )  # fmt: skip
    return found


@pytest.fixture
def root(rendered, tmp_path):
    """A folder with a subfolder for each class, one of which has subfolders of its own."""
    for motion, paths in rendered.items():
        for number, path in enumerate(paths):
            place = tmp_path / 'mine' / motion / ('deeper' if motion == 'up' else '') / f'{motion}_{number}.mp4'
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    (tmp_path / 'mine' / 'left' / 'notes.txt').write_text('no video')
    (tmp_path / 'mine' / '.hidden').mkdir()
    return tmp_path / 'mine'


@pytest.fixture
def splits(root):
    """The same videos in train/ (three of each class) and val/."""
    for motion in MOTIONS:
        for number, path in enumerate(sorted((root / motion).rglob('*.mp4'))):
            place = root.parent / 'splits' / ('val' if number == 3 else 'train') / motion / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return root.parent / 'splits'


@pytest.fixture
def table(root):
    """write(text) -> a CSV file beside the classes of root."""

    def write(text, name='labels.csv'):
        (root / name).write_text(text)
        return root / name

    return write


def names(source):
    return {name for _, name, _ in source.items}


def test_the_name_of_a_subfolder_is_the_class(root, check_source):
    train, held_out = (OwnVideos(root, split, num_clips=1, **HOW) for split in ('train', 'val'))
    assert train.classes == held_out.classes == MOTIONS
    assert (len(train), len(held_out)) == (9, 3) and not names(train) & names(held_out)
    assert {name.split('/')[0] for name in names(held_out)} == set(MOTIONS)
    example, _ = check_source(train, 0, KINDS)
    assert example['id'].startswith('left/left_') and example['label'] == 0
    facts = {name: value for name, value in train.facts.items() if name != 'fingerprint'}
    assert facts == {'part': 'train', 'videos': 9, 'classes': 3}


def test_evaluation_has_several_clips_of_a_video(root):
    source = OwnVideos(root, 'val', num_clips=3, **HOW)
    assert len(source) == 9 and len({source.example(index)['id'] for index in range(3)}) == 1


def test_the_split_follows_the_names_alone(root, tmp_path):
    before = names(OwnVideos(root, 'val'))
    shutil.copytree(root, tmp_path / 'elsewhere' / 'mine')
    assert names(OwnVideos(tmp_path / 'elsewhere' / 'mine', 'val')) == before
    assert len(names(OwnVideos(root, 'val', held_out=0.5))) == 6


def test_folders_train_and_val_are_splits(splits):
    train, held_out = (OwnVideos(splits, split, **HOW) for split in ('train', 'val'))
    assert train.classes == held_out.classes == MOTIONS
    assert names(held_out) == {f'val/{motion}/{motion}_3.mp4' for motion in MOTIONS} and len(train) == 9
    (splits / 'val').rename(splits / 'test')
    assert names(OwnVideos(splits, 'val')) == {f'test/{motion}/{motion}_3.mp4' for motion in MOTIONS}


def test_val_is_scored_before_test_unless_test_is_asked_for(splits):
    for motion in MOTIONS:
        place = splits / 'test' / motion
        place.mkdir(parents=True)
        (splits / 'train' / motion / f'{motion}_0.mp4').rename(place / 'last.mp4')
    assert OwnVideos(splits, 'val').facts['part'] == 'val'
    assert names(OwnVideos(splits, 'val', scored='test')) == {f'test/{motion}/last.mp4' for motion in MOTIONS}


@pytest.mark.parametrize('header', ['', 'path,label\n', 'Path, Label\n'])
def test_a_table_lists_paths_and_labels(table, header):
    rows = [f'{motion}/{motion}_{n}.mp4, "moves, {motion}"\n' for motion in MOTIONS[:2] for n in range(4)]
    path = table(header + '\n' + ''.join(rows))
    train, held_out = (OwnVideos(path, split, num_clips=1, **HOW) for split in ('train', 'val'))
    assert train.classes == ('moves, left', 'moves, right') and (len(train), len(held_out)) == (6, 2)
    assert train.example(0)['video_THWC'].shape == (4, 32, 32, 3)


def test_a_table_may_give_the_split(table):
    text = 'split,label,path\n'
    for motion in MOTIONS[:2]:
        for number, split in enumerate(('train', 'Train', 'validation', 'test')):
            text += f'{split},{motion},{motion}/{motion}_{number}.mp4\n'
    path = table(text)
    assert names(OwnVideos(path, 'train')) == {f'{m}/{m}_{n}.mp4' for m in MOTIONS[:2] for n in (0, 1)}
    assert names(OwnVideos(path, 'val')) == {f'{m}/{m}_2.mp4' for m in MOTIONS[:2]}


def test_the_written_table_keeps_the_split(root, tmp_path):
    source = OwnVideos(root, 'val', **HOW)
    rows = list(csv.reader(io.StringIO(source.table())))
    assert rows[0] == ['path', 'label', 'split'] and len(rows) == 13
    (tmp_path / 'split.csv').write_text(source.table())
    again = OwnVideos(tmp_path / 'split.csv', 'val', **HOW)
    assert {path for path, *_ in again.items} == {path for path, *_ in source.items}


def test_copies_count_once_with_a_warning(root, caplog):
    shutil.copy(root / 'left' / 'left_0.mp4', root / 'left' / 'again.mp4')
    with caplog.at_level(logging.WARNING):
        train, held_out = (OwnVideos(root, split) for split in ('train', 'val'))
    assert len(train.items) + len(held_out.items) == 12
    assert caplog.messages == ['1 of 13 videos are copies of others and are left out']


def test_scores_of_other_videos_do_not_compare(root):
    before = OwnVideos(root, 'train').facts['fingerprint']
    assert OwnVideos(root, 'train').facts['fingerprint'] == before
    name = min(names(OwnVideos(root, 'train')))
    shutil.copy(root / min(names(OwnVideos(root, 'val'))), root / name)
    (root / name).write_bytes((root / name).read_bytes() + b'0')
    assert OwnVideos(root, 'train').facts['fingerprint'] != before


def model(image_size, fps):
    return types.SimpleNamespace(image_size=image_size, architecture=types.SimpleNamespace(fps=fps))


def test_size_and_rate_are_those_of_the_model(root):
    source = OwnVideos(root, 'val', num_frames=3, num_clips=1)
    whole = source.fitted(model(16, 10.0)).example(0)['video_THWC']
    assert whole.shape == (3, 16, 16, 3)
    slow = source.fitted(model(16, 2.5)).example(0)['video_THWC']  # 10 frames at 10 per second: ticks 0 to 2
    first, last = (OwnVideos(root, 'val', num_frames=1, image_size=16, num_clips=2).example(n) for n in (0, 1))
    assert abs(slow[0].astype(int) - first['video_THWC'][0]).mean() < 2
    assert (
        abs(slow[2].astype(int) - last['video_THWC'][0]).mean()
        < abs(whole[2].astype(int) - last['video_THWC'][0]).mean()
    )
    assert np.array_equal(source.fitted(model(16, 500.0)).example(0)['video_THWC'], whole)  # no frame is repeated
    assert source.fitted(model(518, 0.0)).example(0)['video_THWC'].shape == (3, 224, 224, 3)
    assert OwnVideos(root, 'val', **HOW).fitted(model(16, 10.0)).example(0)['video_THWC'].shape == (4, 32, 32, 3)


def test_a_broken_video_is_named_when_it_is_read(root):
    (root / 'left' / 'left_0.mp4').write_bytes(b'no video')
    (root / 'left' / 'left_1.mp4').write_bytes(b'')
    (root / 'right' / 'right_1.mp4').write_bytes(b'')
    sources = [OwnVideos(root, split, num_clips=1, **HOW) for split in ('train', 'val')]
    broken = []
    for source in sources:
        for index in range(len(source)):
            try:
                source.example(index)
            except DataError as error:
                broken.append(str(error))
    assert len(broken) == 3 and any('left_0.mp4' in text for text in broken)


def refused(root, split='val', **settings):
    with pytest.raises(UserError) as error:
        OwnVideos(root, split, **settings)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_mistakes_in_a_folder_are_one_line(root, splits, tmp_path):
    assert 'does not exist; give a folder with a subfolder for each class' in refused(tmp_path / 'nowhere')
    (tmp_path / 'labels.txt').write_text('a,b')
    assert 'is neither a folder nor a CSV file' in refused(tmp_path / 'labels.txt')
    assert 'does not have a subfolder, so there are no classes' in refused(root / 'left')
    (root / 'stray.mp4').write_bytes(b'')
    assert 'stray.mp4: is not in the subfolder of a class; move it into one' in refused(root)
    (root / 'stray.mp4').unlink()
    (root / 'down').mkdir()
    assert re.search(r'down: is the folder of a class, but holds no video; add videos, or remove', refused(root))
    shutil.copy(root / 'left' / 'left_0.mp4', root / 'down')
    (root / 'down' / 'left_0.mp4').write_bytes(b'another')
    assert "the class 'down' has one video, so none can be held out; add a video" in refused(root)
    shutil.copy(root / 'left' / 'left_0.mp4', root / 'down')
    assert re.search("left_0.mp4: is the same video as .*left_0.mp4, but 'left' and not 'down'", refused(root))
    for name in ('down', 'right', 'up'):
        shutil.rmtree(root / name)
    assert "has only the class 'left'; give videos of two classes or more" in refused(root)


def test_mistakes_in_folders_of_splits_are_one_line(splits):
    (splits / 'pictures').mkdir()
    assert 'pictures: is beside train and val, and is none of train, val and test; move it' in refused(splits)
    (splits / 'pictures').rmdir()
    assert '--set data.scored=test: has no video; there is val' in refused(splits, scored='test')
    shutil.copy(splits / 'train' / 'left' / 'left_0.mp4', splits / 'val' / 'left' / 'renamed.mp4')
    said = refused(splits)
    assert re.search('renamed.mp4: is the same video as .*left_0.mp4, and one is for training and one is', said)
    (splits / 'val' / 'left' / 'renamed.mp4').unlink()
    (splits / 'val' / 'left').rename(splits / 'val' / 'Left')
    assert "left_3.mp4: is of the class 'Left', which no training video has" in refused(splits)
    shutil.rmtree(splits / 'val')
    assert 'splits: has train alone; give it train, and val or test beside it' in refused(splits)


TWO = 'left/left_0.mp4,left\nleft/left_1.mp4,left\nright/right_0.mp4,right\nright/right_1.mp4,right\n'


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', 'labels.csv: does not list a video'),
        ('path,label\n', 'labels.csv: does not list a video'),
        (TWO + 'left/no.mp4,left\n', "line 5: names 'left/no.mp4', which is not a file (1 of 5 videos are missing)"),
        (TWO + 'left,left\n', "line 5: names 'left', which is not a file"),
        (TWO + 'left/left_2.mp4,\n', 'line 5: does not have a label'),
        (TWO + ',left\n', 'line 5: does not have a path'),
        (TWO + 'left/left_2.mp4\n', 'line 5: has 1 column; write path,label or path,label,split'),
        (TWO + 'left/left_2.mp4,left,train,more\n', 'line 5: has 4 columns'),
        (TWO + 'left/left_2.mp4,left,held\n', "line 5: has the split 'held'; take train, val, validation, test"),
        (TWO + 'left/left_2.mp4,left,train\n', 'line 1: does not have a split, but others have one'),
        (TWO + 'left/left_1.mp4,right\n', "line 5: is the same video as "),
        ('path,label,fold\n' + TWO, "line 1: has a column 'fold'; take path, label, split alone"),
        (TWO.replace('left\n', 'left,train\n').replace('right\n', 'right,train\n'), 'does not have a video in val or'),
        (TWO.replace('left\n', 'left,val\n').replace('right\n', 'right,test\n'), 'does not have a video in train'),
        (TWO.replace('right\n', 'left\n'), "has only the class 'left'"),
        ('a\0b,c\n', 'is neither a known kind of video nor a text file'),
    ],
)  # fmt: skip
def test_mistakes_in_a_table_are_one_line(table, text, expected):
    assert expected in refused(table(text))


def test_a_video_in_both_splits_of_a_table_is_refused(table):
    text = TWO.replace('left\n', 'left,train\n').replace('right\n', 'right,val\n')
    said = refused(table(text + './left/left_0.mp4,left,val\n'))
    assert re.search('line 5: is the same video as .*line 1, and one is for training and one is held out', said)

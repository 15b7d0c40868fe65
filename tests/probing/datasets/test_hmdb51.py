import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.hmdb51 import HMDB51

KINDS = {'video_THWC': ((4, 32, 32, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'num_frames': 4, 'image_size': 32}
PARTS = {
    '#1_[a] b;_wave_u_nm_np1_ba_med_0.avi': 1,
    'A_wave_u_nm_np1_ba_med_1.avi': 2,
    'A_wave_u_nm_np1_ba_med_2.avi': 0,
}


@pytest.fixture
def root(tmp_path, draw_marker, write_clip):
    frames = [draw_marker(0.25 + 0.05 * i, 0.5, 48, 32) for i in range(10)]
    (tmp_path / 'testTrainMulti_7030_splits').mkdir()
    for label in ('wave', 'cartwheel'):
        for number, name in enumerate(PARTS):
            write_clip(tmp_path / 'hmdb51_org' / label / name, frames[number:], codec='mpeg4')
        lines = ''.join(f'{name} {part} \n' for name, part in PARTS.items())
        table(tmp_path, label).write_text(lines)
    return tmp_path


def table(root, label, number=1):
    return root / 'testTrainMulti_7030_splits' / f'{label}_test_split{number}.txt'


def test_the_lists_say_what_each_video_is_for(root, check_source):
    train, test = HMDB51(root, 'train', **HOW), HMDB51(root, 'val', num_clips=2, **HOW)
    assert train.classes == test.classes == ('cartwheel', 'wave')
    assert [name for _, name, _ in train.items] == [
        f'{label}/#1_[a] b;_wave_u_nm_np1_ba_med_0' for label in train.classes
    ]
    assert [name for _, name, _ in test.items] == [f'{label}/A_wave_u_nm_np1_ba_med_1' for label in train.classes]
    check_source(train, 0, KINDS)
    assert [int(test.example(index)['label']) for index in range(len(test))] == [0, 0, 1, 1]


def test_classes_may_be_in_root_itself(root):
    for folder in (root / 'hmdb51_org').iterdir():
        folder.rename(root / folder.name)
    (root / 'hmdb51_org').rmdir()
    assert len(HMDB51(root, 'train')) == 2


def test_another_split_is_a_setting(root):
    with pytest.raises(UserError, match=r'<class>_test_split2\.txt: is not there \(list of videos of HMDB51'):
        HMDB51(root, 'val', split_number=2)
    for label in ('wave', 'cartwheel'):
        table(root, label, 2).write_text('A_wave_u_nm_np1_ba_med_2.avi 2\n')
    assert len(HMDB51(root, 'val', split_number=2, num_clips=1)) == 2
    with pytest.raises(UserError, match='splits: does not list a video of train'):
        HMDB51(root, 'train', split_number=2)


def test_what_is_missing_is_named(root):
    (root / 'hmdb51_org/wave/A_wave_u_nm_np1_ba_med_1.avi').unlink()
    with pytest.raises(UserError, match=r'med_1\.avi: is not there \(one of 1 missing videos of 2.*serre-lab'):
        HMDB51(root, 'val')
    for line in ('A_wave_u_nm_np1_ba_med_2.avi 3', 'A_wave_u_nm_np1_ba_med_2.avi', 'a/b.avi 1'):
        table(root, 'wave').write_text(line)
        with pytest.raises(UserError, match=r'split1\.txt: has a line that is not a video with 0, 1 or 2'):
            HMDB51(root, 'val')
    with pytest.raises(UserError, match=r'testTrainMulti_7030_splits: is not there .*test_train_splits\.rar'):
        HMDB51(root / 'hmdb51_org', 'train')

import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.ucf101 import UCF101

KINDS = {'video_THWC': ((4, 32, 32, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'num_frames': 4, 'image_size': 32}
TRAIN = ('Archery/v_Archery_g08_c01.avi', 'HandstandPushups/v_HandStandPushups_g08_c01.avi')
TEST = ('HandstandPushups/v_HandStandPushups_g01_c01.avi', 'Archery/v_Archery_g01_c01.avi')


@pytest.fixture
def root(tmp_path, draw_marker, write_clip):
    frames = [draw_marker(0.25 + 0.05 * i, 0.5, 48, 32) for i in range(10)]
    for name in (*TRAIN, *TEST):
        write_clip(tmp_path / 'UCF-101' / name, frames, codec='mpeg4')
    lists = tmp_path / 'ucfTrainTestlist'
    lists.mkdir()
    (lists / 'classInd.txt').write_text('1 HandstandPushups\r\n2 Archery\r\n\r\n')
    (lists / 'trainlist01.txt').write_text(f'{TRAIN[0]} 2\r\n{TRAIN[1]} 1\r\n')
    (lists / 'testlist01.txt').write_text(f'{TEST[0]}\r\n{TEST[1]}\r\n')
    (lists / 'trainlist02.txt').write_text(f'{TEST[0]} 1\n')
    return tmp_path


def test_the_folder_of_a_video_is_its_class(root, check_source):
    train, test = UCF101(root, 'train', **HOW), UCF101(root, 'val', num_clips=2, **HOW)
    assert train.classes == test.classes == ('HandstandPushups', 'Archery')
    assert len(train) == 2 and len(test) == 4
    check_source(train, 0, KINDS)
    examples = [test.example(index) for index in range(4)]
    assert [int(example['label']) for example in examples] == [0, 0, 1, 1]
    assert examples[0]['id'] == examples[1]['id'] == 'HandstandPushups/v_HandStandPushups_g01_c01'


def test_another_split_is_a_setting(root):
    assert [name for _, name, _ in UCF101(root, 'train', split_number=2).items] == [TEST[0].removesuffix('.avi')]
    with pytest.raises(UserError, match=r'testlist03\.txt: is not there \(list of videos of UCF101'):
        UCF101(root, 'val', split_number=3)


def test_what_is_missing_is_named(root):
    (root / 'UCF-101' / TRAIN[0]).unlink()
    with pytest.raises(UserError, match=r'g08_c01\.avi: is not there \(one of 1 missing videos of 2.*crcv\.ucf\.edu'):
        UCF101(root, 'train')
    lists = root / 'ucfTrainTestlist'
    (lists / 'trainlist01.txt').write_text('Bowling/v_Bowling_g08_c01.avi 1\n')
    with pytest.raises(UserError, match=r'trainlist01\.txt: has a video of no class in classInd\.txt \(Bowling'):
        UCF101(root, 'train')
    (lists / 'trainlist01.txt').write_text('../v_Bowling_g08_c01.avi 1\n')
    with pytest.raises(UserError, match='which is not a file of the dataset'):
        UCF101(root, 'train')
    (lists / 'classInd.txt').write_text('1 Archery\n3 Bowling\n')
    with pytest.raises(UserError, match=r'classInd\.txt: has classes that are not numbered from 1'):
        UCF101(root, 'train')
    (lists / 'classInd.txt').write_text('Archery\n')
    with pytest.raises(UserError, match=r'classInd\.txt: lacks an entry'):
        UCF101(root, 'train')
    (lists / 'classInd.txt').write_text('1 Archery\n')
    with pytest.raises(UserError, match="split 'test'"):
        UCF101(root, 'test')
    with pytest.raises(
        UserError, match=r'ucfTrainTestlist/classInd\.txt: is not there \(the names of the classes of UCF'
    ):
        UCF101(root / 'UCF-101', 'train')

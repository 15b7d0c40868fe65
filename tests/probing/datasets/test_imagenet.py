import numpy as np
import pytest
from scipy.io import savemat

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.imagenet import ImageNet

KINDS = {'video_THWC': ((1, 28, 28, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'image_size': 28, 'resize_to': 32}
WNIDS = ('n01', 'n02', 'n03')
NAMES = [f'ILSVRC2012_val_{i:08d}' for i in range(1, 5)]


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    """A picture of each class for training; four of val in one folder, without labels."""
    for wnid in WNIDS:
        write_image(tmp_path / 'train' / wnid / f'{wnid}_1.JPEG', draw_marker(0.5, 0.5, 60, 40))
    for i, name in enumerate(NAMES):
        write_image(tmp_path / 'val' / f'{name}.JPEG', draw_marker(0.5, 0.5, 60, 40, shade=50 + 40 * i))
    return tmp_path


def write_devkit(root, numbers):
    """Numbers 3, 1 and 2 are the classes in order, as if by no rule, and number 4 is a group of classes."""
    kit = root / 'ILSVRC2012_devkit_t12' / 'data'
    kit.mkdir(parents=True)
    (kit / 'ILSVRC2012_validation_ground_truth.txt').write_text('\n'.join(map(str, numbers)) + '\n')
    synsets = np.zeros((4, 1), [('ILSVRC2012_ID', object), ('WNID', object), ('words', object)])
    for row, number, wnid in zip(synsets, (3, 1, 2, 4), (*WNIDS, 'n99'), strict=True):
        row[0] = (number, wnid, 'in words')
    savemat(kit / 'meta.mat', {'synsets': synsets})


def test_a_picture_is_a_video_of_one_frame(root, check_source, find_marker):
    source = ImageNet(root, 'train', **HOW)
    assert len(source) == 3 and source.classes == WNIDS
    example, draws = check_source(source, 1, KINDS)
    assert example['label'] == 1 and example['id'] == 'n02_1'
    np.testing.assert_allclose(find_marker(example['video_THWC'][0]), (0.5, 0.5), atol=0.03)
    assert any(find_marker(draw['video_THWC'][0]) is not None for draw in draws)


def test_a_picture_can_be_repeated_for_models_of_videos(root):
    once, often = (ImageNet(root, 'train', repeat=repeat, **HOW) for repeat in (1, 3))
    assert (once.num_frames, often.num_frames) == (1, 3)
    video_THWC = often.example(1, np.random.default_rng(0))['video_THWC']
    np.testing.assert_array_equal(
        video_THWC, np.concatenate(3 * [once.example(1, np.random.default_rng(0))['video_THWC']])
    )


def test_pictures_of_one_name_in_two_folders_have_two_ids(root):
    for wnid in WNIDS[1:]:
        (root / 'train' / wnid / f'{wnid}_1.JPEG').rename(root / 'train' / wnid / 'n01_1.JPEG')
    source = ImageNet(root, 'train', **HOW)
    assert [source.example(i)['id'] for i in range(3)] == ['n01_1', 'n01_1 #2', 'n01_1 #3']


def test_evaluation_cuts_the_center_of_a_larger_picture(root, draw_marker, write_image, find_marker):
    # Shorter side 40 pixels, of which 28 of 32 parts stay: 35 pixels from (60 - 35) / 2 on.
    write_image(root / 'train' / 'n01' / 'n01_1.JPEG', draw_marker(22 / 60, 0.5, 60, 40))
    frame = ImageNet(root, 'train', **HOW).example(0)['video_THWC'][0]
    assert find_marker(frame)[0] == pytest.approx((22 - 12) / 35, abs=0.03)


def test_flat_pictures_have_the_labels_of_the_devkit(root):
    write_devkit(root, [2, 1, 3, 1])
    source = ImageNet(root, 'val', **HOW)
    assert [source.example(i)['label'] for i in range(4)] == [2, 1, 0, 1]
    assert [source.example(i)['id'] for i in range(4)] == NAMES


def test_flat_pictures_have_the_labels_of_kaggle(root):
    rows = [f'{name},{WNIDS[i % 3]} 1 2 3 4' for i, name in reversed(list(enumerate(NAMES)))]
    (root / 'LOC_val_solution.csv').write_text('\n'.join(['ImageId,PredictionString', *rows]) + '\n')
    source = ImageNet(root, 'val', **HOW)
    assert [source.example(i)['label'] for i in range(4)] == [0, 1, 2, 0]


def test_folders_of_val_need_no_list(root):
    for i, name in enumerate(NAMES):
        folder = root / 'val' / WNIDS[i % 2]
        folder.mkdir(exist_ok=True)
        (root / 'val' / f'{name}.JPEG').rename(folder / f'{name}.JPEG')
    assert [ImageNet(root, 'val', **HOW).example(i)['label'] for i in range(4)] == [0, 0, 1, 1]


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match=r'ground_truth\.txt: is not there \(labels of val .*image-net\.org'):
        ImageNet(root, 'val', **HOW)
    write_devkit(root, [1, 2])
    with pytest.raises(UserError, match='image_size 28: is more than resize_to, 24'):
        ImageNet(root, 'train', image_size=28, resize_to=24)
    with pytest.raises(UserError, match='has 2 labels for 4 pictures'):
        ImageNet(root, 'val', **HOW)
    (root / 'train').rename(root / 'other')
    with pytest.raises(UserError, match='train: is not there'):
        ImageNet(root, 'train', **HOW)


def test_a_picture_that_cannot_be_read_is_named(root):
    (root / 'train' / 'n02' / 'n02_1.JPEG').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'n02_1\.JPEG'):
        ImageNet(root, 'train', **HOW).example(1)


def test_a_stray_picture_does_not_shift_the_labels_of_the_devkit(root):
    write_devkit(root, [2, 1, 3, 1])
    (root / 'val' / f'{NAMES[1]}.JPEG').rename(root / 'val' / 'ILSVRC2012_val_00000009.JPEG')
    with pytest.raises(UserError, match=r'has a label for picture 2, and ILSVRC2012_val_00000003 is in its place'):
        ImageNet(root, 'val', **HOW)

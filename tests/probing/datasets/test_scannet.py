import numpy as np
import pytest

from rvm_jax.data.clips import TooShort
from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.scannet import ScanNet

KINDS = {'video_THWC': ((3, 32, 32, 3), np.uint8), 'depth_THW': ((3, 32, 32), np.float32)}
HOW = {'num_frames': 3, 'image_size': 32}


@pytest.fixture
def root(tmp_path, draw_marker, write_image):
    """A scene of 12 frames: the marker moves to the right and is 2.5 m away, the wall 4 m; the top is not measured."""
    for i in range(12):
        x = 0.3 + 0.03 * i
        write_image(tmp_path / f'scans/scene0000_00/color/{i}.jpg', draw_marker(x, 0.5, 130, 96, size=16))
        small = draw_marker(x, 0.5, 65, 48, size=8)
        depth = np.where(small[..., 0] < 50, 2500, 4000).astype(np.uint16)
        depth[:12] = 0
        write_image(tmp_path / f'scans/scene0000_00/depth/{i}.png', depth)
    for split in ('train', 'val'):
        (tmp_path / f'scannetv2_{split}.txt').write_text('scene0000_00\n')
    return tmp_path


def center(is_there_HW):
    rows, columns = np.nonzero(is_there_HW)
    return (columns.mean() + 0.5) / is_there_HW.shape[1], (rows.mean() + 0.5) / is_there_HW.shape[0]


def test_depth_is_in_meters_and_where_the_picture_shows_it(root, check_source, find_marker):
    source = ScanNet(root, 'train', crop_area=(0.5, 1.0), **HOW)
    example, draws = check_source(source, 0, KINDS)
    for found in (example, *draws):
        assert set(np.unique(found['depth_THW'])) <= {0, 2.5, 4.0}
        for frame_HWC, depth_HW in zip(found['video_THWC'], found['depth_THW'], strict=True):
            x, y = find_marker(frame_HWC)
            if 0.2 < x < 0.8 and 0.3 < y < 0.7:
                np.testing.assert_allclose(center(depth_HW == 2.5), (x, y), atol=0.04)
    assert (example['depth_THW'] == 0).any()


def test_evaluation_has_the_first_frames_by_number(root, find_marker):
    example = ScanNet(root, 'val', stride=5, **HOW).example(0)
    x = [find_marker(frame)[0] for frame in example['video_THWC']]
    np.testing.assert_allclose(x, 0.5 + (0.3 + 0.15 * np.arange(3) - 0.5) * 130 / 96, atol=0.03)
    assert example['id'] == 'scene0000_00'


def test_training_sees_the_center_from_a_random_start(root, find_marker):
    source = ScanNet(root, 'train', **HOW)
    x = {round(find_marker(source.example(0, np.random.default_rng(s))['video_THWC'][0])[0], 2) for s in range(20)}
    assert len(x) > 4


def test_far_depth_can_be_left_out(root):
    depth_THW = ScanNet(root, 'val', max_depth=3, **HOW).example(0)['depth_THW']
    assert set(np.unique(depth_THW)) == {0, 2.5}


def test_a_scene_that_is_listed_twice_counts_once(root, caplog):
    (root / 'scannetv2_val.txt').write_text('scene0000_00\nscene0000_00\n')
    assert len(ScanNet(root, 'val', **HOW)) == 1
    assert caplog.messages == ['1 of 2 lines repeat an example and are left out']


def test_what_is_missing_is_named(root):
    (root / 'scannetv2_val.txt').write_text('scene0000_00\nscene0001_00\n')
    with pytest.raises(UserError, match=r'scene0001_00/color: is not there .*www\.scan-net\.org'):
        ScanNet(root, 'val', **HOW)
    (root / 'scannetv2_val.txt').write_text('\n')
    with pytest.raises(UserError, match=r'scannetv2_val\.txt: does not list a scene'):
        ScanNet(root, 'val', **HOW)
    (root / 'scannetv2_val.txt').unlink()
    with pytest.raises(UserError, match=r'scannetv2_val\.txt: is not there'):
        ScanNet(root, 'val', **HOW)


def test_what_cannot_be_read_is_named(root, write_image):
    with pytest.raises(TooShort, match='scene0000_00: has too few frames'):
        ScanNet(root, 'val', num_frames=13).example(0)
    source = ScanNet(root, 'val', **HOW)
    write_image(root / 'scans/scene0000_00/depth/1.png', np.zeros((48, 65), np.uint8))
    with pytest.raises(DataError, match=r'depth/1\.png: is not a 16-bit depth map'):
        source.example(0)
    (root / 'scans/scene0000_00/depth/1.png').unlink()
    with pytest.raises(DataError, match=r'depth/1\.png: is not there'):
        source.example(0)


def test_a_picture_that_is_missing_in_the_middle_is_named(root):
    for kind in 'color/5.jpg', 'depth/5.png':
        (root / 'scans/scene0000_00' / kind).unlink()
    with pytest.raises(DataError, match=r'does not have picture 5 after 4\.jpg'):
        ScanNet(root, 'val', **HOW).example(0)


def test_every_tenth_picture_of_a_scene_may_be_exported(root):
    for folder, kind in ('color', 'jpg'), ('depth', 'png'):
        for i in reversed(range(12)):
            place = root / 'scans/scene0000_00' / folder
            (place / f'{i}.{kind}').rename(place / f'{10 * i}.{kind}')
    assert ScanNet(root, 'val', **HOW).example(0)['depth_THW'].shape == (3, 32, 32)

import json

import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.ssv2 import SSv2

KINDS = {'video_THWC': ((4, 32, 32, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'num_frames': 4, 'image_size': 32}
VIDEOS = 'something/20bn-something-something-v2'


@pytest.fixture
def root(tmp_path, draw_marker, write_clip):
    """Two videos of 20 frames whose marker moves from left to right, and one of 3."""
    root = tmp_path / 'something'
    for name, count in (('7', 20), ('8', 20), ('9', 3)):
        frames = [draw_marker(0.3 + 0.02 * i, 0.5, 72, 48) for i in range(count)]
        write_clip(tmp_path / VIDEOS / f'{name}.webm', frames, codec='libvpx-vp9')
    labels = {'Pushing something left': '1', 'Pushing something right': '0'}
    entries = [
        {'id': '7', 'label': 'pushing a cup left', 'template': 'Pushing [something] left', 'placeholders': ['a cup']},
        {'id': '8', 'label': 'pushing a pen right', 'template': 'Pushing [something] right', 'placeholders': ['a pen']},
    ]
    last = {**entries[0], 'id': '9'}
    for table, values in (('labels', labels), ('train', entries), ('validation', [*entries, last])):
        (root / f'{table}.json').write_text(json.dumps(values))
    return root


def test_examples_have_the_label_of_their_template(root, check_source):
    source = SSv2(root, 'val', **HOW)
    assert len(source) == 3 and source.classes == ('Pushing something right', 'Pushing something left')
    example, _ = check_source(source, 0, KINDS)
    assert [source.example(i)['label'] for i in range(3)] == [1, 0, 1]
    assert example['id'] == '7'


def test_frames_are_a_stride_apart_from_the_center(root, find_marker):
    example = SSv2(root, 'val', **HOW).example(0)
    x = [find_marker(frame)[0] for frame in example['video_THWC']]
    first = 0.3 + 0.02 * 6  # of 20 frames, a clip takes 7
    np.testing.assert_allclose(x, 0.5 + (first + 0.04 * np.arange(4) - 0.5) * 1.5, atol=0.03)


def test_nothing_is_mirrored_in_training(root, find_marker):
    source = SSv2(root, 'train', colors=False, crop_area=(0.9, 1.0), **HOW)
    for seed in range(8):
        video = source.example(0, np.random.default_rng(seed))['video_THWC']
        assert find_marker(video[-1])[0] > find_marker(video[0])[0]


def test_a_short_video_repeats_its_last_frame(root):
    video = SSv2(root, 'val', **HOW).example(2)['video_THWC'].astype(int)
    assert abs(video[1] - video[0]).mean() > 1 and (video[1:] == video[1]).all()


def test_what_is_missing_is_named(root):
    (root.parent / VIDEOS / '8.webm').unlink()
    with pytest.raises(UserError, match=r'8\.webm: is not there \(one of 1 missing videos of 2 .*download Something'):
        SSv2(root, 'train', **HOW)
    (root / 'validation.json').write_text('[]')
    with pytest.raises(UserError, match=r'validation\.json: does not list a video'):
        SSv2(root, 'val', **HOW)
    (root / 'validation.json').unlink()
    with pytest.raises(UserError, match=r'validation\.json: is not there .*Qualcomm'):
        SSv2(root, 'val', **HOW)
    with pytest.raises(UserError, match="split 'test'"):
        SSv2(root, 'test', **HOW)


def test_what_cannot_be_read_is_named(root):
    (root.parent / VIDEOS / '7.webm').write_bytes(b'no video')
    with pytest.raises(DataError, match=r'7\.webm'):
        SSv2(root, 'train', **HOW).example(0)
    (root / 'train.json').write_text(json.dumps([{'id': '7'}]))
    with pytest.raises(UserError, match=r"train\.json: lacks an entry \(KeyError: 'template'"):
        SSv2(root, 'train', **HOW)

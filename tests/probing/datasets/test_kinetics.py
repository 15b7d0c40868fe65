import logging

import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.kinetics import Kinetics

KINDS = {'video_THWC': ((4, 32, 32, 3), np.uint8), 'label': ((), np.int32)}
HOW = {'num_frames': 4, 'image_size': 32}
HEADER = 'label,youtube_id,time_start,time_end,split\n'


@pytest.fixture
def root(tmp_path, draw_marker, write_clip):
    """One video of 20 frames for training, two for validation, one of which is gone."""
    frames = [draw_marker(0.25 + 0.025 * i, 0.5, 48, 48) for i in range(20)]
    write_clip(tmp_path / 'train' / '-abc_x_000010_000020.mp4', frames)
    write_clip(tmp_path / 'validate' / 'zumba' / 'def_000001_000011.mp4', frames)
    (tmp_path / 'train.csv').write_text(HEADER + '"archery, indoors",-abc_x,10,20,train\n')
    (tmp_path / 'validate.csv').write_text(HEADER + 'zumba,def,1,11,validate\nabseiling,gone,1,11,validate\n')
    return tmp_path


def test_a_video_is_evaluated_in_clips_spread_over_it(root, check_source, find_marker):
    source = Kinetics(root, 'val', num_clips=3, **HOW)
    assert len(source) == 3
    example, _ = check_source(source, 1, KINDS)
    assert example['id'] == 'def_000001_000011'
    assert {source.example(i)['id'] for i in range(3)} == {example['id']}
    x = [find_marker(source.example(i)['video_THWC'][0])[0] for i in range(3)]
    np.testing.assert_allclose(x, 0.25 + 0.025 * np.array([0, 6, 13]), atol=0.02)
    assert len(Kinetics(root, 'val', **HOW)) == 7 and len(Kinetics(root, 'train', **HOW)) == 1


def test_classes_are_the_sorted_labels_of_both_tables(root):
    source = Kinetics(root, 'val', **HOW)
    assert source.classes == ('abseiling', 'archery, indoors', 'zumba')
    assert source.example(0)['label'] == 2 and Kinetics(root, 'train', **HOW).example(0)['label'] == 1


def test_videos_that_are_gone_are_counted_and_said_once(root, caplog):
    with caplog.at_level(logging.WARNING):
        source = Kinetics(root, 'val', **HOW)
        source.example(0)
    assert source.missing == 1
    assert caplog.messages == ['Kinetics val: 1 of 2 videos of the list are not on disk, scores are over the others']


def test_a_repeated_line_counts_once_with_a_warning(root, caplog):
    lines = 'zumba,def,1,11,validate\nzumba,def,1,11,validate\nabseiling,def,1,11,validate\n'
    (root / 'validate.csv').write_text(HEADER + lines)
    with caplog.at_level(logging.WARNING):
        source = Kinetics(root, 'val', num_clips=2, **HOW)
    assert caplog.messages == ['1 of 3 lines repeat an example and are left out']
    examples = [source.example(i) for i in range(len(source))]
    assert [(one['id'], int(one['label'])) for one in examples[::2]] == [
        ('def_000001_000011', 2), ('def_000001_000011 #2', 0),
    ]  # fmt: skip
    assert [one['id'] for one in examples[::2]] == [one['id'] for one in examples[1::2]]


def test_times_tell_clips_of_one_video_apart(root):
    (root / 'validate' / 'def_000050_000060.mp4').write_bytes(b'')
    (root / 'validate.csv').write_text(HEADER + 'zumba,def,1,11,validate\nzumba,def,50,60,validate\n')
    source = Kinetics(root, 'val', **HOW)
    assert [name for _, name, _ in source.items] == ['def_000001_000011', 'def_000050_000060']


def test_training_may_mirror(root, find_marker):
    source = Kinetics(root, 'train', crop_area=(0.9, 1.0), **HOW)
    videos = [source.example(0, np.random.default_rng(seed))['video_THWC'] for seed in range(12)]
    assert {find_marker(video[-1])[0] > find_marker(video[0])[0] for video in videos} == {True, False}


def test_what_is_missing_is_named(root):
    (root / 'train' / '-abc_x_000010_000020.mp4').unlink()
    with pytest.raises(UserError, match=r'-abc_x_000010_000020\.mp4: is not there .*kinetics-dataset'):
        Kinetics(root, 'train', **HOW)
    (root / 'train.csv').write_text(HEADER)
    with pytest.raises(UserError, match=r'train\.csv: does not list a video'):
        Kinetics(root, 'train', **HOW)
    (root / 'train.csv').write_text('some,other,columns\n1,2,3\n')
    with pytest.raises(UserError, match=r'train\.csv: does not have the columns label'):
        Kinetics(root, 'train', **HOW)
    (root / 'train.csv').unlink()
    (root / 'validate.csv').unlink()
    with pytest.raises(UserError, match=r'val\.csv: is not there'):
        Kinetics(root, 'val', **HOW)

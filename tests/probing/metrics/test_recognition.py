import numpy as np
import pytest

from rvm_jax.probing.metrics import recognition


def test_the_most_probable_class_counts():
    assert recognition.top1([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 0, 1]) == pytest.approx(2 / 3)


def test_clips_of_a_video_vote_by_their_mean():
    probabilities = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]]
    assert recognition.top1(probabilities, [0, 0, 0, 0]) == 0.25
    assert recognition.top1(probabilities, [0, 0, 0, 0], ids=['b', 'b', 'b', 'a']) == 0.5


def test_clips_of_a_video_share_a_label():
    with pytest.raises(ValueError, match='different labels'):
        recognition.top1([[1, 0], [1, 0]], [0, 1], ids=['a', 'a'])


def test_no_example_gives_nan():
    assert np.isnan(recognition.top1(np.zeros((0, 3)), []))


def test_chance_is_the_share_of_videos_of_the_commonest_class():
    assert recognition.chance([3, 3, 1, 0], ['a', 'a', 'b', 'c']) == pytest.approx(1 / 3)
    assert recognition.chance([3, 3, 1, 3], ['a', 'a', 'b', 'c']) == pytest.approx(2 / 3)
    assert np.isnan(recognition.chance([], []))

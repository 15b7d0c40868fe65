import numpy as np
import pytest

from rvm_jax.data.clips import TooShort
from rvm_jax.probing.datasets.reading.windows import choose_frames

HOW = {'num_frames': 4, 'stride': 3}


def test_clips_of_one_video_are_spread_evenly():
    clips = [choose_frames(None, 70, clip=clip, num_clips=7, **HOW) for clip in range(7)]
    assert [clip[0] for clip in clips] == [0, 10, 20, 30, 40, 50, 60]
    assert clips[-1].tolist() == [60, 63, 66, 69]


def test_a_single_clip_is_in_the_center_or_first():
    assert choose_frames(None, 20, **HOW).tolist() == [5, 8, 11, 14]
    assert choose_frames(None, 20, start='first', **HOW).tolist() == [0, 3, 6, 9]


def test_draws_reach_both_ends_and_never_pass_them():
    starts = {int(choose_frames(np.random.default_rng(seed), 13, **HOW)[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_short_videos_repeat_their_last_frame_or_are_named():
    assert choose_frames(None, 5, **HOW).tolist() == [0, 3, 4, 4]
    with pytest.raises(TooShort, match=r'x: has too few frames \(5, a clip needs 10\)'):
        choose_frames(None, 5, name='x', **HOW)

import numpy as np
import pytest

from rvm_jax.data.clips import TooShort, choose_clip
from rvm_jax.errors import DataError

PAPER = {
    'num_source': 4,
    'num_target': 4,
    'clip_frames': 64,
    'min_gap': 4,
    'max_gap': 48,
    'source_start': 'first',
    'delta_from': 'first',
}


def draw(num_frames, draws=2000, **changes):
    rng = np.random.default_rng(0)
    return [choose_clip(rng, num_frames, **{**PAPER, **changes}) for _ in range(draws)]


def test_source_is_the_first_frames_and_gaps_span_their_range():
    clips = draw(64)
    assert all(clip.source.tolist() == [0, 1, 2, 3] for clip in clips)
    targets = np.concatenate([clip.target for clip in clips])
    assert set(targets) == set(range(7, 52))  # both ends included, frames 52 to 63 unused
    assert np.bincount(targets).max() < 2 * np.bincount(targets)[7:].min()  # uniform


def test_random_source_start_uses_the_clip_to_its_end():
    clips = draw(64, source_start='random')
    assert {clip.source[0] for clip in clips} == set(range(13))
    assert max(clip.target.max() for clip in clips) == 63


def test_clip_starts_anywhere_inside_a_longer_video():
    clips = draw(70)
    assert {clip.start for clip in clips} == set(range(7))
    assert all(clip.source[0] == clip.start for clip in clips)
    assert max(clip.target.max() for clip in clips) == 6 + 51


def test_deltas_count_from_the_first_or_the_last_source_frame():
    first, last = draw(64, 1)[0], draw(64, 1, delta_from='last')[0]
    np.testing.assert_array_equal(first.deltas, first.target - first.source[0])
    np.testing.assert_array_equal(last.deltas, first.deltas - 3)
    assert first.deltas.dtype == np.int32


@pytest.mark.parametrize('source_start', ['first', 'random'])
def test_short_videos_cap_the_gap_so_that_targets_exist(source_start):
    for num_frames in (8, 9, 30, 51, 63):
        targets = np.concatenate([clip.target for clip in draw(num_frames, source_start=source_start)])
        assert targets.min() >= 7
        assert targets.max() == min(num_frames - 1, 62 if source_start == 'random' else 51)


def test_too_short_a_video_is_refused():
    assert draw(8, 1)[0].target.tolist() == [7, 7, 7, 7]
    with pytest.raises(TooShort, match=r'has too few frames \(7, a clip needs 8\)'):
        draw(7, 1)
    assert issubclass(TooShort, DataError)


def test_one_source_frame_is_enough():
    clip = draw(20, 1, num_source=1, num_target=1, min_gap=1, max_gap=3)[0]
    assert clip.source.tolist() == [clip.start] and 1 <= clip.deltas[0] <= 3

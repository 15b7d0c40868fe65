import pytest

from rvm_jax.data.video.ticks import count_at, frame_at


@pytest.mark.parametrize(
    ('fps', 'expected'), [(10, [0, 1, 2, 3]), (5, [0, 2, 4, 6]), (4, [0, 2, 5, 7]), (3, [0, 3, 7, 10])]
)
def test_ticks_of_a_lower_rate_take_the_nearest_frame(fps, expected):
    assert [frame_at(tick, fps, 10) for tick in range(4)] == expected


def test_ticks_are_counted_as_in_a_video_of_that_length():
    assert [count_at(64, fps, 10) for fps in (10, 5, 2.5)] == [64, 32, 16]
    assert count_at(1, 1, 10) == 1
    for frames in range(1, 50):
        for fps in (10, 7, 3.3, 1):
            assert frame_at(count_at(frames, fps, 10) - 1, fps, 10) <= frames - 1

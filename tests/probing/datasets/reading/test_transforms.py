import numpy as np
import pytest

from rvm_jax.data.clips import TooShort
from rvm_jax.probing.datasets.reading.transforms import (
    Crop,
    central_crop,
    choose_frames,
    gray,
    jitter,
    random_colors,
    random_crop,
    whole_frame,
)

HOW = {'num_frames': 4, 'stride': 3}
PLACE = (0.6, 0.4)
SAME = {'brightness': 0, 'contrast': 1, 'saturation': 1, 'hue': 0}
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)


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


def some_crops():
    yield whole_frame(60, 90)
    yield central_crop(60, 90)
    yield central_crop(60, 90, fraction=0.8)
    for seed in range(20):
        yield random_crop(np.random.default_rng(seed), 60, 90, area=(0.4, 1.0), ratio=(0.5, 2.0), flip=0.5)


def test_points_are_where_the_picture_shows_them(draw_marker, find_marker):
    frame = draw_marker(*PLACE, 90, 60)
    for crop in some_crops():
        point = crop.points(PLACE)
        if (abs(point - 0.5) < 0.4).all():
            np.testing.assert_allclose(find_marker(crop.frames([frame], 64)[0]), point, atol=0.02)
    assert {crop.is_flipped for crop in some_crops()} == {True, False}


@pytest.mark.parametrize('scale', [1, 2])
def test_maps_are_cut_like_the_picture_also_at_another_size(scale, draw_marker, find_marker):
    frame = draw_marker(*PLACE, 90, 60)
    small = draw_marker(*PLACE, 90 // scale, 60 // scale, size=8 // scale)
    depth = np.where(small[..., 0] < 50, 2.5, 1.0)[None]
    for crop in some_crops():
        cut = crop.maps(depth, 64)
        assert set(np.unique(cut)) <= {1.0, 2.5}  # nothing is averaged
        rows, columns = np.nonzero(cut[0] == 2.5)
        if (abs(crop.points(PLACE) - 0.5) < 0.4).all():
            found = (columns.mean() + 0.5) / 64, (rows.mean() + 0.5) / 64
            np.testing.assert_allclose(found, find_marker(crop.frames([frame], 64)[0]), atol=0.025)


def test_boxes_stay_sorted_and_end_at_the_edges():
    crop = Crop((0, 0, 60, 60), (60, 90), is_flipped=True)
    boxes = crop.boxes([[0.0, 0.25, 1 / 3, 0.5], [0.5, 0.0, 1.0, 1.0], [0.8, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(boxes, [[0.5, 0.25, 1, 0.5], [0, 0, 0.25, 1], [0, 0, 0, 1]], atol=1e-6)


def test_a_draw_is_repeated_by_its_seed():
    one, again, other = (random_crop(np.random.default_rng(seed), 60, 90, area=(0.3, 1)) for seed in (1, 1, 2))
    assert one == again != other


def test_no_change_is_no_change():
    np.testing.assert_allclose(jitter(FRAMES, **SAME).astype(int), FRAMES, atol=1)


def test_each_change_is_what_it_says():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(jitter(red, **SAME | {'hue': 1 / 3})[0, 0, 0], (0, 200, 0), atol=1)
    np.testing.assert_allclose(jitter(red, **SAME | {'saturation': 0})[0, 0, 0], (200, 200, 200), atol=1)
    np.testing.assert_allclose(jitter(red, **SAME | {'brightness': 0.1})[0, 0, 0], (225, 25, 25), atol=2)
    spread = [jitter(FRAMES, **SAME | {'contrast': contrast}).std() for contrast in (0.6, 1)]
    np.testing.assert_allclose(spread[0] / spread[1], 0.6, atol=0.03)


def test_all_frames_change_alike():
    still = np.repeat(FRAMES[:1], 4, 0)
    for seed in range(10):
        changed = random_colors(np.random.default_rng(seed), still)
        assert (changed == changed[:1]).all()


def test_draws_differ_and_some_lose_their_color():
    draws = [random_colors(np.random.default_rng(seed), FRAMES) for seed in range(60)]
    unchanged = sum(np.array_equal(draw, FRAMES) for draw in draws)
    without_color = sum((draw[..., 0] == draw[..., 1]).all() for draw in draws)
    assert 2 <= unchanged <= 20 and 4 <= without_color <= 24
    np.testing.assert_array_equal(draws[5], random_colors(np.random.default_rng(5), FRAMES))


def test_gray_is_of_the_same_shape():
    assert gray(FRAMES).shape == FRAMES.shape and gray(FRAMES).dtype == np.uint8

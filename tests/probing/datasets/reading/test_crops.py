import numpy as np
import pytest

from rvm_jax.probing.datasets.reading import crops

PLACE = (0.6, 0.4)


def some_crops():
    yield crops.whole(60, 90)
    yield crops.central(60, 90)
    yield crops.central(60, 90, 0.8)
    for seed in range(20):
        yield crops.drawn(np.random.default_rng(seed), 60, 90, (0.4, 1.0), (0.5, 2.0), flip=0.5)


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
    crop = crops.Crop((0, 0, 60, 60), (60, 90), is_flipped=True)
    boxes = crop.boxes([[0.0, 0.25, 1 / 3, 0.5], [0.5, 0.0, 1.0, 1.0], [0.8, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(boxes, [[0.5, 0.25, 1, 0.5], [0, 0, 0.25, 1], [0, 0, 0, 1]], atol=1e-6)


def test_a_draw_is_repeated_by_its_seed():
    one, again, other = (crops.drawn(np.random.default_rng(seed), 60, 90, (0.3, 1)) for seed in (1, 1, 2))
    assert one == again != other

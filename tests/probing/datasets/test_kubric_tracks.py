import numpy as np
import pytest

from rvm_jax.probing.datasets.kubric_tracks import Camera, choose_pixels, track

SIZE, DISTANCE = 9, 6.0
CENTER = np.array([[4, 4]])
STILL = np.array([[[0.0, 0, -DISTANCE], [0, 0, -DISTANCE]]]), np.array([[[1.0, 0, 0, 0], [1, 0, 0, 0]]])


def scene(camera_at=((0, 0, 0), (0, 0, 0))):
    """Depth of a wall far away, all background, in two frames; a camera that looks down -z."""
    depth_THW = np.full((2, SIZE, SIZE), DISTANCE)
    camera = Camera(0.5, np.array(camera_at, float), np.tile(np.eye(3), (2, 1, 1)))
    return depth_THW, np.zeros((2, SIZE, SIZE), np.uint8), camera


def test_the_background_stays_where_it_is():
    depth_THW, segments_THW, camera = scene(camera_at=((0, 0, 0), (1, -0.5, -2)))
    depth_THW[1] = 100
    tracks, visible, _ = track(CENTER, depth_THW, segments_THW, *STILL, camera=camera)
    # In frame 1 the point is 1 to the left, 0.5 above and 4 ahead.
    np.testing.assert_allclose(tracks[0], [(0.5, 0.5), (0.5 - 0.5 * 1 / 4, 0.5 - 0.5 * 0.5 / 4)], atol=1e-6)
    assert visible.all()


def test_a_thing_takes_its_points_along():
    depth_THW, segments_THW, camera = scene()
    segments_THW[:] = 1
    positions_KT3 = np.array([[[1.0, 0, -DISTANCE], [1, 1.2, -DISTANCE]]])
    quarter = np.sqrt(0.5)
    quaternions_KT4 = np.array([[[1.0, 0, 0, 0], [quarter, 0, 0, quarter]]])  # counter-clockwise as it is seen
    tracks, _, _ = track(CENTER, depth_THW, segments_THW, positions_KT3, quaternions_KT4, camera=camera)
    # The point was 1 to the left of the thing, and is 1 below it.
    np.testing.assert_allclose(tracks[0, 1], (0.5 + 0.5 / DISTANCE, 0.5 - 0.5 * 0.2 / DISTANCE), atol=1e-6)


@pytest.mark.parametrize(
    ('depth', 'segment', 'is_seen'), [(6, 0, True), (5.97, 0, True), (5.9, 0, False), (6, 2, False)]
)
def test_a_point_is_hidden_by_what_is_nearer_or_another_thing(depth, segment, is_seen):
    depth_THW, segments_THW, camera = scene()
    depth_THW[1], segments_THW[1] = depth, segment
    _, visible, _ = track(CENTER, depth_THW, segments_THW, *STILL, camera=camera)
    assert visible.tolist() == [[True, is_seen]]
    depth_THW[1, 4, 4], segments_THW[1, 4, 4] = DISTANCE, 0  # one of the four pixels around it is enough
    assert track(CENTER, depth_THW, segments_THW, *STILL, camera=camera)[1].all()


def test_a_point_behind_the_camera_is_not_in_front():
    depth_THW, segments_THW, camera = scene(camera_at=((0, 0, 0), (0, 0, -9)))
    tracks, visible, in_front = track(CENTER, depth_THW, segments_THW, *STILL, camera=camera)
    assert in_front.tolist() == visible.tolist() == [[True, False]]
    np.testing.assert_array_equal(tracks[0, 0], tracks[0, 1])


def test_small_objects_get_only_their_share_of_pixels():
    segments = np.zeros((64, 64), np.uint8)
    segments[:32, :32] = 1  # 64 pixels of the grid, the others 192
    for seed in range(10):
        pixels = choose_pixels(np.random.default_rng(seed), segments, (0, 0, 64, 64), 12)
        ids = segments[tuple(pixels.T)]
        assert len(np.unique(pixels, axis=0)) == 12 and (ids == 1).sum() == 6
        assert len(set((pixels % 4).T[0])) == len(set((pixels % 4).T[1])) == 1
    assert len(choose_pixels(np.random.default_rng(0), segments, (0, 0, 64, 64), 64)) == 6 + 19
    inside = choose_pixels(np.random.default_rng(0), segments, (40, 8, 20, 30), 64)
    assert (inside >= (40, 8)).all() and (inside < (60, 38)).all()

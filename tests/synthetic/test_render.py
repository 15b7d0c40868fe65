import cv2
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.synthetic.render import BACKGROUND_DEPTH, noise_square, render, truth
from rvm_jax.synthetic.scenes import CLASSES, random_scene


@pytest.fixture(scope='module')
def clips():
    """One small video of each motion class: (scene, frames_THWC, Truth)."""
    scenes = [random_scene(np.random.default_rng((5, c)), 32, 64, 80, motion_class=c) for c in range(len(CLASSES))]
    return [(scene, render(scene), truth(scene)) for scene in scenes]


def colors_at(frame_HWC, points_N2):
    """Bilinear samples (N, C) of a frame at x, y in pixels."""
    x_N, y_N = (points_N2.astype(np.float32) - 0.5).T
    return cv2.remap(frame_HWC.astype(np.float32), x_N, y_N, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]


def away_from_edges(mask_HW, label):
    return cv2.erode((mask_HW == label).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def test_frames_masks_and_depth_have_the_promised_form(clips):
    scene, frames, known = clips[0]
    assert frames.shape == (32, 64, 80, 3) and frames.dtype == np.uint8
    assert known.masks_THW.shape == (32, 64, 80) and known.masks_THW.dtype == np.int8
    assert set(np.unique(known.masks_THW)) == {0, 1, 2, 3, 4}
    assert known.boxes_KT4.shape == (4, 32, 4)
    assert known.tracks_PT2.shape == (4 * 6 + 12, 32, 2) and known.visible_PT.shape == (4 * 6 + 12, 32)
    assert known.depth_THW[known.masks_THW == 0] == pytest.approx(BACKGROUND_DEPTH)
    assert known.depth_THW[known.masks_THW == 2] == pytest.approx(scene.shapes[1].depth)
    assert (np.diff(known.depths_K) < 0).all() and known.depths_K[0] < BACKGROUND_DEPTH


def test_color_stays_nearly_the_same_along_a_visible_track(clips):
    along, across = [], []
    for _, frames, known in clips:
        for track_T2, seen_T, label in zip(known.tracks_PT2, known.visible_PT, known.track_objects_P, strict=True):
            colors = []
            for t in np.flatnonzero(seen_T):
                column, row = np.floor(track_T2[t]).astype(int)
                if away_from_edges(known.masks_THW[t], label)[row, column]:
                    colors.append(colors_at(frames[t], track_T2[t : t + 1])[0])
            if len(colors) > 1:
                along.append(np.std(colors, axis=0).max())
                across.append(colors[0])
    assert len(along) > 100
    assert np.percentile(along, 95) < 4  # of 255
    assert np.std(across, axis=0).min() > 40


def test_a_point_that_is_covered_or_outside_is_not_visible(clips):
    occluded = outside = 0
    for _, _, known in clips:
        for track_T2, seen_T, label in zip(known.tracks_PT2, known.visible_PT, known.track_objects_P, strict=True):
            for t, (x, y) in enumerate(track_T2):
                if not (0 <= x < 80 and 0 <= y < 64):
                    outside += 1
                    assert not seen_T[t]
                else:
                    seen_label = known.masks_THW[t, int(y), int(x)]
                    assert seen_T[t] == (seen_label == label)
                    occluded += seen_label > label
                    assert seen_label >= label  # what hides a point is never behind it
    assert occluded > 50 and outside > 50


def test_a_nearer_shape_is_painted_over_a_farther_one():
    scene = random_scene(np.random.default_rng(0), 2, motion_class=0)
    near, far = scene.shapes[-1], scene.shapes[0]
    far.centers_T2[:] = near.centers_T2  # one above the other
    center_2 = near.centers_T2[0]
    column, row = center_2.astype(int)
    assert truth(scene).masks_THW[0, row, column] == len(scene.shapes)
    sprite_HWC = near.sprite_HWC
    middle_C = sprite_HWC[len(sprite_HWC) // 2, len(sprite_HWC) // 2, :3] * 255
    assert colors_at(render(scene)[0], center_2[None])[0] == pytest.approx(middle_C, abs=12)


def test_boxes_touch_the_whole_silhouette(clips):
    for _, _, known in clips:
        for k, boxes_T4 in enumerate(known.boxes_KT4):
            for box_4, mask_HW in zip(boxes_T4, known.masks_THW == k + 1, strict=True):
                x0, y0, x1, y1 = box_4.astype(int)
                assert mask_HW.sum() == mask_HW[y0:y1, x0:x1].sum()
                if k == len(known.boxes_KT4) - 1:  # never occluded: the box is tight, and a shape fills much of it
                    rows, columns = np.nonzero(mask_HW)
                    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    assert 0.2 < mask_HW.sum() / ((x1 - x0) * (y1 - y0)) <= 1


def test_the_camera_motion_aligns_the_background(clips):
    for _, frames, known in clips:
        t = 4
        # Centers of pixels are half a pixel from the corner that our coordinates start from.
        linear, shift = known.camera_T23[t, :, :2], known.camera_T23[t, :, 2]
        matrix = np.column_stack([linear, shift + linear @ (0.5, 0.5) - 0.5])
        warped_HWC = cv2.warpAffine(frames[0].astype(np.float32), matrix, (80, 64), flags=cv2.INTER_LINEAR)
        inside_HW = cv2.warpAffine(away_from_edges(known.masks_THW[0], 0).astype(np.float32), matrix, (80, 64)) > 0.99
        both_HW = inside_HW & away_from_edges(known.masks_THW[t], 0)
        aligned = np.abs(warped_HWC - frames[t])[both_HW].mean()
        moved = np.abs(frames[0].astype(np.float32) - frames[t])[both_HW].mean()
        assert both_HW.sum() > 500
        assert aligned < 2.5 and aligned < 0.2 * moved


def test_the_camera_step_leads_from_a_frame_to_the_next(clips):
    _, _, known = clips[1]
    dx, dy, turn, log_zoom = known.camera_step_4
    corner_2 = np.array([3.0, 7.0])
    for t in (0, 9):
        here_2, next_2 = (known.camera_T23[t + i, :, :2] @ corner_2 + known.camera_T23[t + i, :, 2] for i in (0, 1))
        x, y = np.exp(log_zoom) * (here_2 - (40, 32))
        expected = (40 + dx + x * np.cos(turn) - y * np.sin(turn), 32 + dy + x * np.sin(turn) + y * np.cos(turn))
        assert next_2 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('name', CLASSES)
def test_the_motion_class_is_what_the_nearest_shape_does(name, clips):
    _, _, known = clips[CLASSES.index(name)]
    tracks_NT2 = known.tracks_PT2[known.track_objects_P == 4]
    middle_T2 = tracks_NT2.mean(axis=0)
    spread_NT = tracks_NT2 - middle_T2
    growth = np.log(np.hypot(*spread_NT[:, -1].T).mean() / np.hypot(*spread_NT[:, 0].T).mean())
    phases_NT = np.unwrap(np.arctan2(spread_NT[..., 1], spread_NT[..., 0]), axis=1)
    turn = (phases_NT[:, -1] - phases_NT[:, 0]).mean()
    right, down = (middle_T2[-1] - middle_T2[0]) / 10  # 10 pixels count as much as a radian or e-fold / 3
    strengths = {'right': right, 'left': -right, 'down': down, 'up': -down}
    strengths.update(clockwise=turn, counterclockwise=-turn, grow=3 * growth, shrink=-3 * growth)
    assert CLASSES[int(known.motion_class)] == name
    assert max(strengths, key=strengths.get) == name


def test_the_nearest_shape_moves_smoothly_inside_the_frame(clips):
    for scene, _, known in clips:
        for shape in scene.shapes:
            assert ((shape.centers_T2 >= 0) & (shape.centers_T2 <= (80, 64))).all()
            assert np.hypot(*np.diff(shape.centers_T2, axis=0).T).max() < 1.61  # pixels a frame
            assert np.hypot(*np.diff(shape.centers_T2, n=2, axis=0).T).max() < 1  # a bounce takes several frames
        assert (known.masks_THW == 4).any(axis=(1, 2)).all()


def test_the_larger_frame_shows_the_same_motion_in_proportion():
    small, large = (random_scene(np.random.default_rng(3), 8, side, side) for side in (64, 128))
    assert large.shapes[0].centers_T2 == pytest.approx(2 * small.shapes[0].centers_T2)
    assert large.camera_step_4[:2] == pytest.approx(2 * small.camera_step_4[:2])
    halved = cv2.resize(render(large)[5], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(halved.astype(float) - render(small)[5]).mean() < 2


def test_a_scene_depends_on_its_generator_only():
    first, again, other = (render(random_scene(np.random.default_rng(seed), 6)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_objects_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match='num_objects to 1'):
        random_scene(np.random.default_rng(0), num_objects=0)


def test_the_noise_square_moves_as_in_the_paper():
    _, masks = noise_square(np.random.default_rng(0), num_frames=64, size=128)
    for t in range(64):
        assert masks[t].sum() == 64 * 64
        assert (masks[t, 32:96, t : t + 64] == 1).all()  # 512 pixels wide it is 4 t
    _, masks = noise_square(np.random.default_rng(0), num_frames=5, size=50)
    assert [int(mask.argmax() % 50) for mask in masks] == [0, 5, 10, 15, 20]
    assert [int(mask.argmax() // 50) for mask in masks] == [12] * 5


def test_a_frame_of_the_noise_square_gives_nothing_away():
    frames, masks = noise_square(np.random.default_rng(0), num_frames=4, size=256)
    inside, outside = (frames[1][masks[1] == label].astype(float) for label in (1, 0))
    assert inside.mean() == pytest.approx(outside.mean(), abs=1.5) == pytest.approx(127, abs=1.5)
    assert inside.std() == pytest.approx(outside.std(), abs=1.5) == pytest.approx(73.6, abs=1.5)


def test_motion_reveals_the_noise_square():
    frames, masks = noise_square(np.random.default_rng(0), num_frames=8, size=64)
    still_HW = (frames[0] == frames[1]).all(axis=-1)
    assert still_HW[(masks[0] == 0) & (masks[1] == 0)].all()
    assert still_HW[masks[0] + masks[1] > 0].mean() < 0.01
    moved = np.roll(frames[0], 4, axis=1)
    assert (moved == frames[1])[masks[1] == 1].all()

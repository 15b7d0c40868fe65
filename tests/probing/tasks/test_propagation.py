import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames
from rvm_jax.probing.metrics import segmentation
from rvm_jax.probing.tasks import propagation

CELL = 8
SETTINGS = propagation.Settings((48, 64), top_k=3, num_context=3, radius=6)
MASK = np.zeros((48, 64), np.uint8)
MASK[8:24, 8:32], MASK[32:40, 40:56] = 1, 2
POSE = np.stack([np.linspace(8, 56, 15), np.linspace(40, 8, 15)], axis=-1)


def colors(frames):
    """Features of 8 x 8 cells: their mean color and its square, normalized."""
    for frame_HWC in frames:
        assert frame_HWC.shape == (48, 64, 3) and frame_HWC.dtype == np.uint8
        cells = frame_HWC.reshape(6, CELL, 8, CELL, 3).mean(axis=(1, 3)) / 255 - 0.5
        features = np.concatenate([cells, cells**2 - 0.1, np.full((6, 8, 1), 0.05)], axis=-1)
        yield (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(np.float32)


def video(num_frames, truth, moves=0, size=(48, 64), name='a'):
    """Random cells that move by so many columns of cells from frame to frame, and labels that move along."""
    cells = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(CELL, 0).repeat(CELL, 1)
    cells = np.pad(cells, ((0, size[0] - 48), (0, size[1] - 64), (0, 0)))

    def frames():
        return (np.roll(cells, moves * CELL * t, axis=1) for t in range(num_frames))

    return LabelledFrames(name, num_frames, frames, lambda t: np.roll(truth, moves * CELL * t, axis=1))


def static_pose(num_frames):
    return dataclasses.replace(video(num_frames, MASK), truth=lambda t: POSE)


def evaluate(task, videos, features):
    return task.scores([task.measure(task.predict(one, features), one) for one in videos])


def test_a_static_video_returns_the_first_mask_for_every_frame():
    masks = list(propagation.ObjectMasks(SETTINGS).predict(video(5, MASK), colors))
    assert len(masks) == 5 and masks[0].shape == MASK.shape and masks[0].dtype == np.uint8
    for mask in masks:
        assert (mask != MASK).mean() < 0.03  # corners are round
        assert np.array_equal(mask, masks[0])


def test_masks_come_back_at_the_size_of_the_video():
    settings = dataclasses.replace(SETTINGS, size=(48, 64))
    mask = MASK.repeat(2, axis=0)
    frames = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    large = LabelledFrames('a', 2, lambda: iter([frames] * 2), lambda t: mask)
    for found in propagation.ObjectMasks(settings).predict(large, colors):
        assert found.shape == (96, 64) and (found != mask).mean() < 0.05


def test_masks_follow_what_moves():
    scores = evaluate(propagation.ObjectMasks(SETTINGS), [video(4, MASK, moves=1)], colors)
    still = evaluate(propagation.ObjectMasks(SETTINGS), [video(4, MASK)], colors)
    assert scores['J'] > 0.9 * still['J'] > 0.75
    assert scores['J&F'] == pytest.approx((scores['J'] + scores['F']) / 2)


def test_the_scores_of_davis_are_those_of_its_predictions():
    videos = [video(5, MASK, moves=1), video(4, np.where(MASK == 1, 1, 0).astype(np.uint8), name='b')]
    task = propagation.ObjectMasks(SETTINGS)
    scores = evaluate(task, iter(videos), colors)
    masks = [
        (np.stack(list(task.predict(one, colors))), np.stack([one.truth(t) for t in range(one.num_frames)]))
        for one in videos
    ]
    assert scores == pytest.approx(segmentation.davis_scores(masks))


def test_stability_is_that_of_the_video_cut_short():
    whole, short = video(12, MASK, moves=1), video(9, MASK, moves=1, name='too short')
    task = propagation.Stability(SETTINGS, lengths=(4, 6, 9))
    scores = evaluate(task, [whole, short], colors)
    for n in task.lengths:
        cut = dataclasses.replace(whole, num_frames=n, frames=lambda n=n: list(whole.frames())[:n])
        expected = evaluate(propagation.ObjectMasks(SETTINGS), [cut], colors)['J&F']
        assert scores[f'J&F_{n}'] == pytest.approx(expected)
        assert scores[f'stability_{n}'] == pytest.approx(expected / scores['J&F_4'])
    assert scores['stability'] == scores['stability_9'] and scores['stability_4'] == 1


def test_stability_looks_at_no_more_frames_than_it_needs():
    looked = []

    def watched(frames):
        for features in colors(frames):
            looked.append(1)
            yield features

    task = propagation.Stability(SETTINGS, lengths=(3, 5))
    evaluate(task, [video(5, MASK), video(20, MASK)], watched)
    assert len(looked) == 5
    with pytest.raises(UserError, match='must have more than 5 frames, and none has'):
        evaluate(task, [video(5, MASK)], colors)


def test_parts_count_all_frames_and_what_is_no_class_not_at_all():
    truth = MASK.copy()
    truth[:, :8] = 255
    task = propagation.PartMasks(SETTINGS)
    one = video(3, truth)
    masks = list(task.predict(one, colors))
    assert set(np.unique(masks)) == {0, 1, 2}
    record = task.measure(iter(masks), one)['confusion_KK']
    assert record.shape == (20, 20) and record.sum() == 3 * (truth != 255).sum()
    assert evaluate(task, [one, one], colors)['miou'] == pytest.approx(segmentation.mean_iou(record))
    assert segmentation.mean_iou(record) > 0.85


def test_joints_of_a_static_video_stay():
    task = propagation.Keypoints(SETTINGS)
    points, visible = zip(*task.predict(static_pose(4), colors), strict=True)
    assert np.stack(visible).all()
    for found in points[1:]:
        np.testing.assert_allclose(found, points[0], atol=4)
    scores = evaluate(task, [static_pose(4)], colors)
    assert scores['pck_0.5'] == 100 and 'pck_0.1' in scores


def test_every_task_has_the_numbers_of_its_protocol():
    davis, jhmdb, vip = propagation.DAVIS, propagation.JHMDB, propagation.VIP
    assert [one.size for one in (davis, jhmdb, vip)] == [(480, 880), (320, 320), (448, 880)]
    assert [one.top_k for one in (davis, jhmdb, vip)] == [7, 7, 10]
    assert {(one.temperature, one.num_context, one.radius, one.restrict) for one in (davis, jhmdb, vip)} == {
        (0.7, 20, 20, True)
    }
    tasks = propagation.ObjectMasks(), propagation.Stability(), propagation.PartMasks(), propagation.Keypoints()
    assert [task.settings for task in tasks] == [davis, davis, vip, jhmdb]


def test_patch_features_are_normalized_and_in_order():
    def encode(frames_BTHWC, state=None):
        patches = frames_BTHWC[:, :, ::14, ::14].reshape(*frames_BTHWC.shape[:2], -1, 3).astype(np.float32)
        return np.concatenate([np.full((*patches.shape[:2], 2, 3), 1e6, np.float32), patches], axis=2), state

    model = SimpleNamespace(
        patch_size=14, num_prefix_tokens=2, window=None, encode=encode, core=SimpleNamespace(is_streaming=True)
    )
    frames = np.random.default_rng(0).integers(1, 256, (3, 48, 64, 3), np.uint8)
    found = list(propagation.patch_features(model, iter(frames)))
    assert len(found) == 3 and found[0].shape == (3, 4, 3)  # 6 rows and 8 columns of pixels are left over
    expected = frames[2][:42:14, :56:14].astype(np.float32)
    np.testing.assert_allclose(found[2], expected / np.linalg.norm(expected, axis=-1, keepdims=True), rtol=1e-6)


def test_frames_are_made_of_whole_patches():
    fitted = propagation.fitted(propagation.ObjectMasks(), 14)
    assert fitted.settings == dataclasses.replace(propagation.DAVIS, size=(476, 882))
    assert propagation.fitted(propagation.ObjectMasks(), 16) == propagation.ObjectMasks()


def test_nothing_is_relative_to_nothing():
    record = {'j_TQ': np.zeros((9, 1)), 'f_TQ': np.zeros((9, 1)), 'largest_T': np.ones(9, int)}
    found = propagation.Stability(SETTINGS, lengths=(4, 6, 8)).scores([record])
    assert found['J&F_4'] == 0 and np.isnan(found['stability'])

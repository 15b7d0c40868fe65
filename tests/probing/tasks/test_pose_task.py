import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.tasks.losses import scores_of
from rvm_jax.probing.tasks.pose import ClipPose, FramePose, rotation_from_6d


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def clip(seed):
    pose_34 = np.concatenate([turn(0.3 + seed), [[0.2], [seed], [1.0]]], axis=1)
    return {'id': str(seed), 'pose_34': pose_34.astype(np.float32)}


def frames(seed):
    rng = np.random.default_rng(seed)
    return {
        'id': str(seed), 'translations_T3': rng.normal(size=(4, 3)).astype(np.float32),
        'rotations_T33': np.stack([turn(0.1 * seed + 0.2 * t) for t in range(4)]).astype(np.float32),
        'known_T': np.array([False, True, True, True]),
    }  # fmt: skip


CLIPS, FRAMES = [clip(0), clip(1)], [frames(0), frames(1)]
CLIP_BATCH = {'pose_34': np.stack([one['pose_34'] for one in CLIPS])}
FRAME_BATCH = {name: np.stack([one[name] for one in FRAMES]) for name in FRAMES[0] if name != 'id'}


def perfect_frames():
    columns = FRAME_BATCH['rotations_T33'][..., :2]
    return FRAME_BATCH['translations_T3'], np.concatenate([columns[..., 0], 2 * columns[..., 1]], axis=-1)


def test_six_numbers_are_a_rotation():
    numbers_X6 = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    found = np.asarray(rotation_from_6d(numbers_X6))
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.tile(np.eye(3), (7, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-5)
    quarter = rotation_from_6d(np.array([0, 2.0, 0, -3, 5, 0]))  # its first column only has to be made shorter
    np.testing.assert_allclose(quarter, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: rotation_from_6d(x).sum())(jnp.zeros(6))).all()


def test_a_perfect_pose_of_a_clip_costs_nothing():
    readout = lambda _: CLIP_BATCH['pose_34'].reshape(2, 1, 12)  # noqa: E731
    features = np.zeros((2, 3, 1, 4))
    assert ClipPose().loss(readout, features, CLIP_BATCH)[0] == 0
    found = ClipPose().predict(readout, features, CLIP_BATCH)['pose_34']
    assert scores_of(ClipPose(), [{'pose_34': np.asarray(one)} for one in found], CLIPS)['epe'] < 1e-6


def test_a_clip_is_its_first_and_last_frame():
    seen = []
    features = np.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    ClipPose().predict(lambda x: seen.append(x) or jnp.zeros((2, 1, 12)), features, CLIP_BATCH)
    assert seen[0].shape == (2, 1, 2, 8)
    np.testing.assert_array_equal(seen[0][:, 0], np.concatenate([features[:, 0], features[:, 2]], axis=-1))


class Head:
    """A readout that gives what it was made of."""

    def __init__(self, outputs, scales=(0.0, -3.0)):
        self.outputs, self.log_scales = outputs, jnp.asarray(scales)

    def __call__(self, features):
        return self.outputs


def test_a_perfect_pose_of_frames_has_no_error():
    loss, losses = FramePose().loss(Head(perfect_frames()), None, FRAME_BATCH)
    assert losses['translation'] == 0 and losses['rotation'] < 1e-5
    assert loss == pytest.approx(-3, abs=1e-3)
    found = FramePose().predict(Head(perfect_frames()), None, FRAME_BATCH)
    predictions = [{name: np.asarray(array[i]) for name, array in found.items()} for i in range(2)]
    assert scores_of(FramePose(), predictions, FRAMES) == {'rpe_tr': 0, 'rpe_tr_rms': 0}
    predictions[0]['translations_T3'] = predictions[0]['translations_T3'] + np.array([0.03, 0, 0.04])
    assert scores_of(FramePose(), predictions, FRAMES)['rpe_tr'] == pytest.approx(25, rel=1e-4)


def test_learned_scales_weigh_the_two_losses():
    translations, rotations = perfect_frames()
    head = Head((translations + np.array([0.1, -0.2, 0]), rotations), scales=(1.0, -2.0))
    loss, losses = FramePose().loss(head, None, FRAME_BATCH)
    assert losses['translation'] == pytest.approx(0.3, rel=1e-4)
    expected = np.exp(-1) * losses['translation'] + 1 + np.exp(2) * losses['rotation'] - 2
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_frames_whose_motion_is_not_known_cannot_change_the_loss():
    def differentiated(batch):
        outputs = tuple(jnp.asarray(x, jnp.float32) + 0.1 for x in perfect_frames())
        objective = lambda outputs: FramePose().loss(Head(outputs), None, batch)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(objective))(outputs)

    garbage = {name: array.copy() for name, array in FRAME_BATCH.items()}
    garbage['translations_T3'][:, 0] = garbage['rotations_T33'][:, 0] = np.nan
    (loss, grads), (clean, clean_grads) = differentiated(garbage), differentiated(FRAME_BATCH)
    assert loss == clean
    for found, expected in zip(grads, clean_grads, strict=True):
        assert np.isfinite(found).all() and (found == expected).all() and (found[:, 0] == 0).all()


def test_a_readout_learns_the_poses_of_two_clips(overfit):
    before, after, scores = overfit(ClipPose(channels=16, heads=2), CLIPS)
    assert after < before / 20 and scores['epe'] < 0.3


def test_a_readout_learns_the_poses_of_frames(overfit):
    before, after, scores = overfit(FramePose(channels=16, hidden=32), FRAMES, steps=200)
    assert after < before - 2 and scores['rpe_tr'] < 500


def test_protocols_that_a_task_does_not_have_are_kind_errors():
    with pytest.raises(UserError, match='take frame pose'):
        ClipPose(streaming=True)
    with pytest.raises(UserError, match='set streaming, or take clip pose'):
        FramePose(streaming=False)

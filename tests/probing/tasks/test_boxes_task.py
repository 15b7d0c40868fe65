import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.losses import scores_of

SIZES = {
    'channels': 16, 'heads': 2, 'query_width': 16, 'tracker_channels': 16, 'tracker_heads': 2, 'tracker_hidden': 32,
    'tracker_depth': 1,
}  # fmt: skip
WAYS = {'offline': {}, 'streaming': {'streaming': True}, 'recurrent': {'recurrent': True}}


def example(seed):
    """Three objects in 4 frames: one is gone in frame 2, one comes late, one is padding."""
    rng = np.random.default_rng(seed)
    low_QT2 = rng.uniform(0.1, 0.3, (3, 1, 2)) + rng.uniform(-0.05, 0.05, (3, 4, 2))
    known_QT = np.ones((3, 4), bool)
    known_QT[0, 2] = known_QT[1, 0] = known_QT[2] = False
    boxes_QT4 = np.concatenate([low_QT2, low_QT2 + np.array([0.3, 0.4])], axis=-1).astype(np.float32)
    return {'id': str(seed), 'boxes_QT4': boxes_QT4, 'known_QT': known_QT}


EXAMPLES = [example(0), example(1)]
BATCH = {name: np.stack([one[name] for one in EXAMPLES]) for name in ('boxes_QT4', 'known_QT')}


def outputs(way, boxes):
    boxes = jnp.asarray(boxes)
    return (boxes, None, None) if way == 'recurrent' else boxes


@pytest.mark.parametrize('way', WAYS)
def test_a_perfect_answer_costs_nothing_and_overlaps_fully(way):
    task, found = Boxes(**WAYS[way]), outputs(way, BATCH['boxes_QT4'])
    assert task.loss(lambda *_: found, None, BATCH)[0] < 1e-12
    found = np.asarray(task.predict(lambda *_: found, None, BATCH)['boxes_QT4'])
    assert scores_of(task, [{'boxes_QT4': one} for one in found], EXAMPLES)['mean_iou'] == pytest.approx(1)


def test_the_loss_is_the_mean_square_of_what_the_readout_gives():
    wider = BATCH['boxes_QT4'] + np.float32([0, 0, 0.2, 0])
    assert Boxes().loss(lambda *_: wider, None, BATCH)[0] == pytest.approx(0.04 / 4, rel=1e-4)
    streaming = Boxes(streaming=True).loss(lambda *_: wider, None, BATCH)[0]
    assert streaming == pytest.approx((0.01 + 0.04) / 4, rel=1e-4)  # center and width


def test_unknown_boxes_cannot_change_the_loss(gradient):
    found = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 4, 4)), jnp.float32)
    boxes = np.where(BATCH['known_QT'][..., None], BATCH['boxes_QT4'], np.nan)
    boxes[:, 1] = np.nan
    (loss, grads), (clean, clean_grads) = (
        gradient(Boxes(), found, {**BATCH, 'boxes_QT4': b}) for b in (boxes, BATCH['boxes_QT4'])
    )
    assert loss == clean and np.isfinite(clean_grads).all() and (grads == clean_grads).all()
    assert (grads[:, 1:] == 0).all() and (grads[:, 0, 2] == 0).all() and (grads[:, 0, [0, 1, 3]] != 0).any()


@pytest.mark.parametrize('way', ['offline', 'streaming'])  # the recurrent one learns points
def test_a_readout_learns_two_clips(overfit, way):
    task = Boxes(**SIZES, **WAYS[way])
    before, after, scores = overfit(task, EXAMPLES)
    assert after < before / 20 and scores['mean_iou'] > 0.7


def test_two_readouts_at_once_are_a_kind_error():
    with pytest.raises(UserError, match='choose one'):
        Boxes(streaming=True, recurrent=True)

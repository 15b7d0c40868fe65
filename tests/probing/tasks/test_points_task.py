import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing.tasks.losses import scores_of
from rvm_jax.probing.tasks.points import Points

SIZES = {
    'channels': 16, 'heads': 2, 'query_width': 16, 'tracker_channels': 16, 'tracker_heads': 2, 'tracker_hidden': 32,
    'tracker_depth': 1,
}  # fmt: skip
WAYS = {'offline': {}, 'streaming': {'streaming': True}, 'recurrent': {'recurrent': True}}


def example(seed):
    """Three tracks of 4 frames: one is hidden in frame 2, one out of the scene in frame 3, one is padding."""
    rng = np.random.default_rng(seed)
    tracks_QT2 = rng.uniform(0.3, 0.7, (3, 1, 2)) + rng.uniform(-0.1, 0.1, (3, 4, 2))
    visible_QT = np.ones((3, 4), bool)
    visible_QT[0, 2] = visible_QT[1, 3] = False
    in_scene_QT = np.ones((3, 4), bool)
    in_scene_QT[1, 3] = False
    queries_Q3 = np.concatenate([np.zeros((3, 1)), tracks_QT2[:, 0]], axis=1)
    return {
        'id': str(seed), 'queries_Q3': queries_Q3.astype(np.float32), 'tracks_QT2': tracks_QT2.astype(np.float32),
        'visible_QT': visible_QT, 'in_scene_QT': in_scene_QT, 'valid_Q': np.array([True, True, False]),
    }  # fmt: skip


def stack(examples):
    return {name: np.stack([one[name] for one in examples]) for name in examples[0] if name != 'id'}


EXAMPLES = [example(0), example(1)]
BATCH = stack(EXAMPLES)


def perfect(batch, shift=0.0):
    visible = 30.0 * (2.0 * batch['visible_QT'] - 1)
    return jnp.asarray(batch['tracks_QT2'] + shift), jnp.asarray(visible), jnp.full(visible.shape, 30.0)


def scores(task, outputs, examples=EXAMPLES):
    found = task.predict(lambda *_: outputs, None, stack(examples))
    predictions = [{name: np.asarray(x[i]) for name, x in found.items()} for i in range(len(examples))]
    return scores_of(task, predictions, examples)


@pytest.mark.parametrize('way', WAYS)
def test_a_perfect_answer_costs_nothing_and_has_every_point(way):
    task = Points(**WAYS[way])
    loss, losses = task.loss(lambda *_: perfect(BATCH), None, BATCH)
    assert loss < 1e-6 and set(losses) == {'position', 'visible', 'certain'}
    found = scores(task, perfect(BATCH))
    assert found['average_jaccard'] == found['occlusion_accuracy'] == 1


def test_an_error_of_3_pixels_has_the_expected_loss_and_scores():
    tracks, visible, certain = perfect(BATCH, shift=np.array([3 / 256, 0]))
    losses = Points().loss(lambda *_: (tracks, visible, certain), None, BATCH)[1]
    assert losses['position'] == pytest.approx(4.5 * 6 / 8, rel=1e-3)  # 6 of 8 frames of valid tracks show the point
    assert scores(Points(), (tracks, visible, certain))['average_jaccard'] == pytest.approx(0.6)


def test_far_away_the_loss_is_a_line_and_certainty_should_be_low():
    tracks, visible, certain = perfect(BATCH, shift=np.array([0, 10 / 256]))
    losses = Points().loss(lambda *_: (tracks, visible, certain), None, BATCH)[1]
    assert losses['position'] == pytest.approx(4 * (10 - 2) * 6 / 8, rel=1e-3)
    assert losses['certain'] == pytest.approx(30 * 6 / 8, rel=1e-3)
    assert Points().loss(lambda *_: (tracks, visible, -certain), None, BATCH)[1]['certain'] < 1e-6
    weighted = 0.05 * losses['position'] + losses['visible'] + losses['certain']
    assert Points().loss(lambda *_: (tracks, visible, certain), None, BATCH)[0] == pytest.approx(
        float(weighted), rel=1e-5
    )


def test_what_is_masked_cannot_change_the_loss(gradient):
    rng = np.random.default_rng(0)
    outputs = tuple(jnp.asarray(rng.uniform(size=shape), jnp.float32) for shape in ((2, 3, 4, 2), (2, 3, 4), (2, 3, 4)))
    tracks, visible = BATCH['tracks_QT2'].copy(), BATCH['visible_QT'].copy()
    tracks[~visible] = tracks[:, 2] = np.nan
    visible[:, 2] = False
    queries = BATCH['queries_Q3'].copy()
    queries[:, 2] = 1e9
    garbage = {**BATCH, 'tracks_QT2': tracks, 'visible_QT': visible, 'queries_Q3': queries}
    for a, b in zip(gradient(Points(), outputs, BATCH), gradient(Points(), outputs, garbage), strict=True):
        for x, y in zip(*(x if isinstance(x, tuple) else (x,) for x in (a, b)), strict=True):
            assert np.isfinite(x).all()
            np.testing.assert_array_equal(x, y)


def test_points_out_of_the_scene_count_for_visibility_alone(gradient):
    tracks, _, certain = perfect(BATCH, shift=0.05)
    outputs = tracks, jnp.zeros(certain.shape), certain
    _, (tracks, visible, certain) = gradient(Points(occluded_positions=True), outputs, BATCH)
    assert (np.abs(visible[:, :2]) > 0).all() and (visible[:, 2] == 0).all()
    assert (tracks[:, 1, 3] == 0).all() and (certain[:, 1, 3] == 0).all()
    assert (np.abs(tracks[:, 0, 2]).max(-1) > 0).all()  # hidden but in the scene
    _, (tracks, _, _) = gradient(Points(), outputs, BATCH)
    assert (tracks[:, 0, 2] == 0).all() and (np.abs(tracks[:, 0, 1]).max(-1) > 0).all()


def test_only_frames_from_a_visible_query_on_count(gradient):
    queries, visible = BATCH['queries_Q3'].copy(), BATCH['visible_QT'].copy()
    queries[:, :, 0] = 1
    visible[0, 0, 1] = False
    task = Points(recurrent=True)
    _, grads = gradient(task, perfect(BATCH, shift=0.05), {**BATCH, 'queries_Q3': queries, 'visible_QT': visible})
    for grad in grads:
        assert (grad[:, :, 0] == 0).all() and (grad[0, 0] == 0).all()
    assert np.abs(grads[0][1, 0, 1]).max() > 0


def seen_later(at=2):
    """The first example, and the same with its second track first seen in a later frame."""
    before, after = example(0), example(0)
    after['visible_QT'][1, :at] = False
    after['visible_QT'][1, at:] = after['in_scene_QT'][1, at:] = True
    after['queries_Q3'][1] = at, *after['tracks_QT2'][1, at]
    before['valid_Q'][1] = False
    return before, after


def test_offline_leaves_out_and_counts_tracks_that_start_later(gradient):
    without, late = seen_later()
    outputs = perfect(stack([without]), shift=0.05)
    for a, b in zip(*(gradient(Points(), outputs, stack([one])) for one in (without, late)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    found = {one['valid_Q'].sum(): scores(Points(), outputs, [one]) for one in (without, late)}
    assert found[1].pop('tracks_left_out') == 0 and found[2].pop('tracks_left_out') == 1
    assert found[1] == found[2] and found[1]['tracks_scored'] == 1
    asked = Points().predict(lambda *_: perfect(stack([late])), None, stack([late]))['asked_Q']
    assert asked.tolist() == [[True, False, False]]


@pytest.mark.parametrize('way', ['streaming', 'recurrent'])
def test_other_readouts_count_a_track_first_seen_later(gradient, way):
    without, late = seen_later()
    task, (tracks, visible, certain) = Points(**WAYS[way]), perfect(stack([late]))
    outputs = tracks.at[:, 1].add(0.05), visible, certain
    assert np.abs(gradient(task, outputs, stack([late]))[1][0][0, 1, 2:]).max(-1).all()
    found = scores(task, outputs, [late])
    assert (found['tracks_scored'], found['tracks_left_out']) == (2, 0)
    assert found['average_jaccard'] < scores(task, outputs, [without])['average_jaccard'] == 1


def test_the_recurrent_readout_is_told_the_frame_of_each_query():
    late = stack([seen_later()[1]])
    told = []
    Points(recurrent=True).predict(lambda *inputs: told.append(inputs) or perfect(late), None, late)
    assert told[0][2].tolist() == [[0, 2, 0]]
    np.testing.assert_array_equal(told[0][1][0, 1], late['tracks_QT2'][0, 1, 2])


def test_streaming_answers_the_query_frame_with_the_query():
    tracks, _, certain = perfect(BATCH, shift=0.2)
    outputs = tracks, jnp.full(certain.shape, -0.1).at[:, :, 2].set(0.1), -certain
    found = Points(streaming=True).predict(lambda *_: outputs, None, BATCH)
    np.testing.assert_array_equal(found['tracks_QT2'][:, :2, 0], BATCH['queries_Q3'][:, :2, 1:])
    np.testing.assert_array_equal(found['tracks_QT2'][:, :, 1:], tracks[:, :, 1:])
    assert found['visible_QT'][0, 0].tolist() == [True, False, True, False]
    assert not Points().predict(lambda *_: outputs, None, BATCH)['visible_QT'].any()


def test_both_visible_and_certain_are_needed_offline():
    half = jnp.zeros((2, 3, 4)) + 0.8  # sigmoid 0.69, squared 0.476
    found = Points().predict(lambda *_: (jnp.zeros((2, 3, 4, 2)), half, half), None, BATCH)['visible_QT']
    assert not found.any()
    found = Points().predict(lambda *_: (jnp.zeros((2, 3, 4, 2)), half, half + 1), None, BATCH)['visible_QT']
    assert found[:, :2].all()


@pytest.mark.parametrize('way', WAYS)
def test_a_readout_learns_two_clips(overfit, way):
    task = Points(**SIZES, **WAYS[way])
    before, after, scores = overfit(task, EXAMPLES, steps=120)
    assert after < before / 5 and scores['average_jaccard'] > 0.5


def test_another_mode_of_queries_is_a_kind_error():
    with pytest.raises(UserError, match='give first or strided'):
        Points(query_mode='last')


def test_two_readouts_at_once_are_a_kind_error():
    with pytest.raises(UserError, match='choose one'):
        Points(streaming=True, recurrent=True)

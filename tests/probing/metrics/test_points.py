import pathlib

import numpy as np
import pytest

from rvm_jax.probing.metrics import points

GOLDEN = pathlib.Path(__file__).parents[2] / 'goldens' / 'metrics.npz'
TRUTH = np.random.default_rng(0).uniform(20, 200, (3, 6, 2))
ALL = np.ones((3, 6), bool)
QUERIES = np.zeros(3)


@pytest.mark.parametrize('mode', ['first', 'strided'])
def test_scores_equal_the_official_numbers(mode):
    with np.load(GOLDEN, allow_pickle=False) as file:
        golden = dict(file)
    for video in range(2):
        scores = points.tap_vid(
            golden['tapvid_query'][video, :, 0],
            golden['tapvid_gt_tracks'][video],
            ~golden['tapvid_gt_occluded'][video],
            golden['tapvid_pred_tracks'][video],
            ~golden['tapvid_pred_occluded'][video],
            mode=mode,
        )
        expected = {name: golden[f'tapvid_{mode}_{name}'][video] for name in scores}
        assert len(scores) == 13
        assert scores == pytest.approx(expected, abs=1e-6)


def test_perfect_tracks_score_one():
    assert set(points.tap_vid(QUERIES, TRUTH, ALL, TRUTH, ALL).values()) == {1.0}


def test_all_predicted_hidden_finds_positions_but_no_tracks():
    scores = points.tap_vid(QUERIES, TRUTH, ALL, TRUTH, ~ALL)
    assert scores['average_jaccard'] == 0 and scores['average_pts_within_thresh'] == 1
    assert scores['occlusion_accuracy'] == 0


def test_an_error_of_three_pixels():
    scores = points.tap_vid(QUERIES, TRUTH, ALL, TRUTH + np.array([0, 3]), ALL)
    assert [scores[f'jaccard_{threshold}'] for threshold in points.THRESHOLDS] == [0, 0, 1, 1, 1]
    assert scores['average_jaccard'] == pytest.approx(0.6)


def test_exactly_the_threshold_is_not_within():
    truth = TRUTH.round()
    scores = points.tap_vid(QUERIES, truth, ALL, truth + np.array([0, 4]), ALL)
    assert scores['pts_within_4'] == 0 and scores['pts_within_8'] == 1


def test_a_point_seen_elsewhere_counts_twice():
    predicted = TRUTH.copy()
    predicted[:, 1] += 100
    scores = points.tap_vid(QUERIES, TRUTH, ALL, predicted, ALL)
    assert scores['jaccard_16'] == pytest.approx(12 / (15 + 3))


def test_frames_before_the_query_count_only_when_strided():
    predicted = TRUTH.copy()
    predicted[:, :3] += 100
    queries = np.full(3, 2.6)  # frame 3
    assert points.tap_vid(queries, TRUTH, ALL, predicted, ALL)['average_jaccard'] == 1
    assert points.tap_vid(queries, TRUTH, ALL, predicted, ALL, mode='strided')['pts_within_16'] == pytest.approx(2 / 5)


def test_tracks_that_are_never_visible_are_dropped():
    visible = ALL.copy()
    visible[1] = False
    assert set(points.tap_vid(QUERIES, TRUTH, visible, TRUTH, ALL).values()) == {1.0}


def test_empty_denominators_are_nan():
    assert all(np.isnan(value) for value in points.tap_vid(QUERIES, TRUTH, ~ALL, TRUTH, ALL).values())
    visible = ~ALL
    visible[:, 0] = True  # hidden in every frame that counts
    scores = points.tap_vid(QUERIES, TRUTH, visible, TRUTH, ~ALL)
    assert scores.pop('occlusion_accuracy') == 1
    assert all(np.isnan(value) for value in scores.values())


def test_another_mode_is_an_error():
    with pytest.raises(ValueError, match="'last' is neither"):
        points.tap_vid(QUERIES, TRUTH, ALL, TRUTH, ALL, mode='last')

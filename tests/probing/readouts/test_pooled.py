"""kNN and linear readouts against their formulas in numpy."""

import numpy as np
import pytest
from scipy import optimize

from rvm_jax.errors import UserError
from rvm_jax.probing.readouts.pooled import Linear, NearestClips
from rvm_jax.probing.stratified import held_out

RNG = np.random.default_rng(0)
VECTORS, LABELS = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60)
ASKED = RNG.normal(size=(7, 5)).astype(np.float32)
NAMES = [f'clip {number}' for number in range(60)]


def normalized(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize(('k', 'temperature'), [(20, 0.07), (3, 0.5), (20, 1e-5)])
def test_the_nearest_clips_vote_with_their_similarity(k, temperature):
    similarities_MN = normalized(ASKED).astype(np.float64) @ normalized(VECTORS).T
    expected_MK = np.zeros((7, 4))
    for row, similarities_N in enumerate(similarities_MN):
        for nearest in np.argsort(similarities_N)[-k:]:
            weight = np.exp((similarities_N[nearest] - similarities_N.max()) / temperature)
            expected_MK[row, LABELS[nearest]] += weight
    expected_MK /= expected_MK.sum(1, keepdims=True)
    found_MK = NearestClips(k, temperature).fit(VECTORS, LABELS, NAMES, 4)(ASKED)
    np.testing.assert_allclose(found_MK, expected_MK, atol=1e-3)


def test_the_length_of_a_vector_makes_no_difference_to_knn():
    predict = NearestClips().fit(VECTORS, LABELS, NAMES, 3)
    np.testing.assert_allclose(predict(100 * ASKED), predict(ASKED), atol=1e-4)


def test_all_clips_vote_if_there_are_fewer_than_k():
    found_MK = NearestClips(k=20).fit(np.eye(2), np.array([0, 1]), NAMES[:2], 2)(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found_MK, [[1, np.exp(-1 / 0.07)]], atol=1e-6)


@pytest.mark.parametrize('penalty', [1.0, 0.01])
def test_the_linear_readout_is_the_minimum_of_its_loss(penalty):
    mean_D, deviation_D = VECTORS.mean(0), VECTORS.std(0)

    def predict(parameters, vectors):
        weights_DK, bias_K = parameters[:15].reshape(5, 3), parameters[15:]
        return softmax((vectors - mean_D) / deviation_D @ weights_DK + bias_K)

    def loss(parameters):
        right_N = predict(parameters, VECTORS)[np.arange(60), LABELS]
        return -np.log(right_N).mean() + penalty / 2 * np.square(parameters[:15]).sum()

    best = optimize.minimize(loss, np.zeros(18)).x
    found_MK = Linear(penalties=(penalty,)).fit(VECTORS, LABELS, NAMES, 3)(ASKED)
    np.testing.assert_allclose(found_MK, predict(best, ASKED), atol=5e-3)


def test_the_penalty_is_the_best_one_for_clips_that_are_held_back():
    held_N = held_out(NAMES, LABELS, 0.2)
    names = [name for name, is_held in zip(NAMES, held_N, strict=True) if not is_held]
    errors = {}
    for penalty in Linear().penalties:
        predict = Linear(penalties=(penalty,)).fit(VECTORS[~held_N], LABELS[~held_N], names, 3)
        errors[penalty] = -np.log(predict(VECTORS[held_N])[np.arange(held_N.sum()), LABELS[held_N]]).mean()
    chosen = Linear().penalty(VECTORS, LABELS, NAMES, 3)
    assert chosen == min(errors, key=errors.get) and chosen >= 1  # labels are noise


def test_a_linear_law_gets_a_weak_penalty_and_is_found():
    labels = 1 * (VECTORS[:, 0] > VECTORS[:, 1])
    assert Linear().penalty(VECTORS, labels, NAMES, 2) <= 0.01
    found_MK = Linear().fit(VECTORS, labels, NAMES, 2)(ASKED)
    margin_M = ASKED[:, 0] - ASKED[:, 1]
    assert ((found_MK[:, 1] > 0.5) == (margin_M > 0))[abs(margin_M) > 0.5].all()


@pytest.mark.parametrize('readout', [Linear(), NearestClips()])
def test_a_class_without_a_clip_has_no_probability(readout):
    found_MK = readout.fit(VECTORS, 2 * (LABELS > 0), NAMES, 4)(ASKED)
    assert found_MK.shape == (7, 4) and not found_MK[:, [1, 3]].any()
    np.testing.assert_allclose(found_MK.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize('readout', [Linear(), NearestClips()])
def test_one_clip_of_each_class_is_enough(readout):
    found_MK = readout.fit(np.eye(3), np.arange(3), NAMES[:3], 3)(np.eye(3))
    assert found_MK.argmax(1).tolist() == [0, 1, 2]


def test_a_single_class_cannot_be_read_linearly():
    with pytest.raises(UserError, match='--readout linear: needs training clips of two classes'):
        Linear().fit(VECTORS, np.zeros(60, int), NAMES, 2)

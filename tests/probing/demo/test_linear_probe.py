import numpy as np

from rvm_jax.probing.demo import linear_probe

RNG = np.random.default_rng(0)


def test_a_linear_law_is_found():
    vectors = RNG.normal(size=(400, 6)) * [1, 10, 0.1, 1, 1, 1] + 3
    weights = RNG.normal(size=(6, 2))
    probe = linear_probe.fit(vectors, vectors @ weights + 1)
    fresh = RNG.normal(size=(50, 6)) * [1, 10, 0.1, 1, 1, 1] + 3
    np.testing.assert_allclose(probe.predict(fresh), fresh @ weights + 1, atol=0.05)
    assert probe.penalty == linear_probe.PENALTIES[0]


def test_noise_raises_the_penalty_and_predicts_the_mean():
    vectors, targets = RNG.normal(size=(60, 50)), RNG.normal(size=(60, 1)) + 5
    probe = linear_probe.fit(vectors, targets)
    assert probe.penalty >= 100
    np.testing.assert_allclose(probe.predict(RNG.normal(size=(20, 50))), targets.mean(), atol=1)


def test_a_feature_that_never_changes_does_no_harm():
    vectors = np.c_[RNG.normal(size=(100, 2)), np.ones(100)]
    probe = linear_probe.fit(vectors, vectors[:, :1])
    assert np.isfinite(probe.predict(vectors)).all()


def test_the_solution_is_that_of_ridge_regression():
    vectors, targets = RNG.normal(size=(80, 5)).astype(np.float32), RNG.normal(size=(80, 3)).astype(np.float32)
    probe = linear_probe.fit(vectors, targets)
    normed = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-6)
    expected = np.linalg.solve(normed.T @ normed + probe.penalty * np.eye(5), normed.T @ (targets - targets.mean(0)))
    np.testing.assert_allclose(probe.weights_FK, expected, atol=1e-4)


def test_many_vectors_are_summed_in_parts_for_several_targets(monkeypatch):
    vectors, targets = RNG.normal(size=(80, 5)) + 100, RNG.normal(size=(80, 3))
    whole = linear_probe.fit(vectors, targets)
    monkeypatch.setattr(linear_probe, 'ROWS', 7)
    ridge = linear_probe.Ridge(vectors)
    ridge.fit(-targets[:, :1])
    np.testing.assert_allclose(ridge.fit(targets).weights_FK, whole.weights_FK, atol=1e-5)


def test_repeated_features_do_no_harm():
    vectors = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 60))
    probe = linear_probe.fit(np.c_[vectors, vectors], vectors[:, :2])
    np.testing.assert_allclose(probe.predict(np.c_[vectors, vectors]), vectors[:, :2], atol=0.05)

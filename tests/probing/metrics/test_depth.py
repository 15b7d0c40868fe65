import numpy as np
import pytest

from rvm_jax.probing.metrics import depth


def test_error_is_relative_to_the_truth():
    assert depth.abs_rel([[1.0, 3.0]], [[2.0, 4.0]]) == pytest.approx((0.5 + 0.25) / 2)


def test_no_scale_is_fitted():
    assert depth.abs_rel(np.full((2, 3, 3), 2.2), np.full((2, 3, 3), 2.0)) == pytest.approx(0.1)


def test_missing_truth_does_not_count():
    assert depth.abs_rel([1.0, 100.0], [2.0, 0.0]) == pytest.approx(0.5)
    assert np.isnan(depth.abs_rel([1.0], [0.0]))

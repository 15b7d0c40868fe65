import numpy as np
import pytest

from rvm_jax.probing.readouts.readout_layers import fourier_features

X = np.float32([[0.25, 0.8, 1.0], [0.0, 0.5, 0.3]])


def test_frequencies_are_outermost_as_released():
    found = np.asarray(fourier_features(X, num_bases=3))
    angles = np.concatenate([X.astype(np.float64) * np.pi * 2**i for i in range(3)], axis=1)
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=2e-6)


def test_the_other_layout_holds_each_coordinate_together():
    found = np.asarray(fourier_features(X, num_bases=3, layout='coordinate')).reshape(2, 3, 6)
    angles = X.astype(np.float64)[..., None] * np.pi * 2.0 ** np.arange(3)
    np.testing.assert_allclose(found, np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), atol=2e-6)


@pytest.mark.parametrize(('coordinates', 'size'), [(2, 64), (4, 128)])
def test_sizes_of_points_and_boxes(coordinates, size):
    assert fourier_features(np.zeros((5, coordinates))).shape == (5, size)


def test_half_precision_input_keeps_the_highest_frequency():
    low, high = fourier_features(np.float16([[0.5], [0.5 + 2**-11]]))
    assert low.dtype == np.float32 and abs(low[15] - high[15]) < 1e-2 and abs(low[10] - high[10]) > 0.9

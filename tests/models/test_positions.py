"""Golden values: the released code, width 384."""

import cv2
import jax
import numpy as np
import pytest

from rvm_jax.models import positions


def test_the_table_interleaves_sine_and_cosine_of_the_flat_index():
    table = positions.sincos_table(256, 384)
    assert table.shape == (256, 384) and table.dtype == np.float32
    for index, value in {
        (0, 0): 0, (0, 1): 1, (1, 0): 0.841471, (1, 1): 0.540302, (17, 2): -0.475726, (17, 3): -0.879594,
        (100, 200): 0.734822, (100, 201): 0.678260, (255, 0): -0.506392, (255, 383): 0.999642,
    }.items():  # fmt: skip
        assert table[index] == pytest.approx(value, abs=1e-6)


def test_the_base_grid_is_not_resized():
    for method in ('jax', 'torch'):
        found = positions.resized_sincos_table((16, 16), 384, method)
        np.testing.assert_array_equal(found, positions.sincos_table(256, 384))


@pytest.mark.parametrize(
    ('grid', 'expected'),
    [
        ((14, 14), (0.010062, 0.723045, 0.140170, -0.357467, 0.866255, 0.305278, 0.597729)),
        ((20, 20), (-0.026789, 1.106735, -0.936103, -0.583542, 0.858028, 0.305338, 0.612861)),
        ((28, 55), (-0.081799, 1.215174, 0.972084, -0.685889, 0.855602, 0.305322, 0.613940)),
        ((30, 55), (-0.081199, 1.225330, 0.971489, -0.690515, 0.855311, 0.305340, 0.613868)),
    ],
)
def test_other_grids_are_resized_as_released(grid, expected):
    table = positions.resized_sincos_table(grid, 384, 'jax').reshape(*grid, 384)
    found = table[0, 0, 0], table[0, 0, 1], table[3, 7, 10], table[-1, -1, 0], table[-1, -1, 200]
    np.testing.assert_allclose([*found, table.mean(), table.std()], expected, atol=1e-5)


@pytest.mark.parametrize('grid', [(4, 4), (1, 1), (3, 40), (16, 20)])
def test_resizing_equals_jax(grid):
    table = positions.sincos_table(256, 8).reshape(16, 16, 8)
    expected = jax.image.resize(table, (*grid, 8), 'bicubic')
    np.testing.assert_allclose(positions.resize_grid(table, grid, 'jax'), expected, atol=1e-5)


@pytest.mark.parametrize('grid', [(4, 4), (1, 1), (3, 40), (16, 20), (30, 55)])
def test_resizing_as_torch_is_cubic_without_antialias(grid):
    table = positions.sincos_table(256, 4).reshape(16, 16, 4)
    expected = cv2.resize(table, grid[::-1], interpolation=cv2.INTER_CUBIC)  # the same kernel and borders
    np.testing.assert_allclose(positions.resize_grid(table, grid, 'torch'), expected, atol=1e-5)


def test_the_decoder_table_is_made_for_its_grid_not_resized():
    assert positions.sincos_table(14 * 14, 512)[14, 0] == pytest.approx(0.990607, abs=1e-6)


def test_rope_angles_of_rows_come_before_those_of_columns():
    angles = positions.rope_angles((2, 3), positions.rope_periods(8, 100.0)).reshape(2, 3, 8)
    assert (angles[:, :, :2] == angles[:, :1, :2]).all() and (angles[0, :, :2] != angles[1, :, :2]).all()
    assert (angles[:, :, 2:4] == angles[:1, :, 2:4]).all() and (angles[:, 0, 2:4] != angles[:, 2, 2:4]).all()
    assert (angles[:, :, 4:] == angles[:, :, :4]).all()
    np.testing.assert_allclose(angles[1, 2, :4], [np.pi, np.pi / 10, 4 / 3 * np.pi, 4 / 30 * np.pi])


def test_resize_weights_sum_to_one_and_keep_an_equal_grid():
    for method in ('jax', 'torch', 'linear'):
        np.testing.assert_allclose(positions.resize_weights(5, 8, method).sum(1), 1)
        np.testing.assert_allclose(positions.resize_weights(5, 5, method), np.eye(5), atol=1e-12)
    assert np.abs(positions.resize_weights(5, 5, 'torch', 0.1) - np.eye(5)).max() > 1e-3


def test_linear_weights_are_widened_only_when_shrinking():
    np.testing.assert_allclose(positions.resize_weights(2, 4, 'linear')[1], [0.75, 0.25])
    np.testing.assert_allclose(positions.resize_weights(4, 2, 'linear')[0], [3 / 7, 3 / 7, 1 / 7, 0])

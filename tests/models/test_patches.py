import numpy as np
import pytest

from rvm_jax.models import patches


def test_patches_are_rows_of_the_grid_with_colors_fastest():
    pixels = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    found = patches.to_patches(pixels, 2)
    assert found.shape == (6, 12)
    np.testing.assert_array_equal(found[1], pixels[0:2, 2:4].ravel())
    np.testing.assert_array_equal(found[3], pixels[2:4, 0:2].ravel())


@pytest.mark.parametrize('leading', [(), (2,), (2, 3)])
def test_frames_come_back_from_their_patches(leading):
    pixels = np.random.default_rng(0).random((*leading, 4, 6, 3))
    np.testing.assert_array_equal(patches.to_pixels(patches.to_patches(pixels, 2), (2, 3), 2), pixels)


def test_incomplete_patches_at_the_bottom_and_right_are_dropped():
    pixels = np.random.default_rng(0).random((5, 7, 3))
    np.testing.assert_array_equal(patches.to_patches(pixels, 2), patches.to_patches(pixels[:4, :6], 2))
    assert patches.grid_size(360, 640, patch_size=16) == (22, 40)

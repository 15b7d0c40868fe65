import jax
import numpy as np
import pytest

from rvm_jax.models import masking


@pytest.mark.parametrize(
    ('patches', 'ratio', 'visible'),
    [(256, 0.95, 12), (196, 0.95, 9), (1024, 0.95, 51), (250, 0.9, 24), (36, 0.9, 3), (4, 0.95, 0), (16, 0.0, 16)],
)
def test_visible_patches_are_counted_as_released(patches, ratio, visible):
    assert masking.num_visible(patches, ratio) == visible


def test_each_target_of_each_clip_gets_its_own_draw():
    visible = np.asarray(masking.random_visible(jax.random.key(0), (3, 4), 64, 0.8))
    assert visible.shape == (3, 4, 12) and visible.dtype == np.int32
    rows = visible.reshape(12, 12)
    assert all(len(set(row)) == 12 for row in rows) and rows.min() >= 0 and rows.max() < 64
    assert len({tuple(row) for row in rows}) == 12


def test_every_patch_is_as_likely_to_stay_visible():
    visible = np.asarray(masking.random_visible(jax.random.key(0), (2000,), 16, 0.75))
    assert np.abs(np.bincount(visible.ravel(), minlength=16) / 2000 - 0.25).max() < 0.05
    assert (visible[:, 0] > visible[:, 1]).mean() == pytest.approx(0.5, abs=0.05)  # the order is random too


def test_shared_is_one_draw_for_all():
    visible = np.asarray(masking.random_visible(jax.random.key(0), (3, 4), 64, 0.8, shared=True))
    assert visible.shape == (3, 4, 12) and (visible == visible[0, 0]).all()


def test_what_is_taken_out_is_put_back_where_it_was():
    patches_BNP = np.arange(2 * 6 * 3.0).reshape(2, 6, 3)
    visible_BV = np.array([[4, 0], [1, 5]])
    taken = masking.take_visible(patches_BNP, visible_BV)
    np.testing.assert_array_equal(taken, [patches_BNP[0, [4, 0]], patches_BNP[1, [1, 5]]])
    grid = np.asarray(masking.restore_grid(taken, visible_BV, np.full(3, -1.0), 6))
    mask = np.asarray(masking.hidden_mask(visible_BV, 6))
    np.testing.assert_array_equal(mask, [[0, 1, 1, 1, 0, 1], [1, 0, 1, 1, 1, 0]])
    np.testing.assert_array_equal(grid, np.where(mask[..., None] == 1, -1.0, patches_BNP))


def test_a_grid_without_visible_patches_is_all_filler():
    none = np.zeros((2, 0), np.int32)
    assert (np.asarray(masking.restore_grid(np.zeros((2, 0, 3), np.float32), none, np.full(3, -1.0), 6)) == -1).all()
    assert (np.asarray(masking.hidden_mask(none, 6)) == 1).all()

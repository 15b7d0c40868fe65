import cv2
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.data.augment import augment_clip, center_crop_resize, crop_resize, draw_crop
from rvm_jax.data.loader import AUGMENTATION
from rvm_jax.data.video.lazy_frames import decoded

HOW = {'image_size': 32} | {name: configs.default().data[name] for name in AUGMENTATION}


def ramp(num_frames=3, height=60, width=80):
    """Frames whose red grows to the right, green to the bottom, and which are all the same."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 3, y * 3, 0 * x], -1).astype(np.uint8)
    return np.repeat(image[None], num_frames, 0)


def resized(frame, size):
    out = np.empty((size, size, 3), np.uint8)
    crop_resize(frame, (0, 0, *frame.shape[:2]), size, out)
    return out


def test_all_frames_of_a_clip_share_flip_and_crop():
    for seed in range(10):
        frames = augment_clip(np.random.default_rng(seed), decoded(ramp()), **HOW)
        assert frames.shape == (3, 32, 32, 3) and frames.dtype == np.uint8
        assert (frames == frames[0]).all()


def test_each_frame_gets_its_own_crop_if_asked():
    frames = augment_clip(np.random.default_rng(0), decoded(ramp()), **{**HOW, 'crop_level': 'frame', 'flip': 0})
    assert not (frames[0] == frames[1]).all()


def test_flip_mirrors_left_and_right_only():
    still = {**HOW, 'crop_area': (1, 1), 'crop_ratio': (80 / 60, 80 / 60)}
    kept, mirrored = (
        augment_clip(np.random.default_rng(0), decoded(ramp()), **{**still, 'flip': p})[0] for p in (0.0, 1.0)
    )
    assert kept[0, 0, 0] < kept[0, -1, 0]
    assert mirrored[0, 0, 0] > mirrored[0, -1, 0]
    assert mirrored[0, 0, 1] < mirrored[-1, 0, 1]
    flips = [
        augment_clip(np.random.default_rng(seed), decoded(ramp()), **still)[0, 0, 0, 0] > 100 for seed in range(200)
    ]
    assert 60 < sum(flips) < 140


def test_crops_keep_to_area_and_ratio():
    rng = np.random.default_rng(0)
    crops = np.array([draw_crop(rng, 240, 320, (0.3, 1.0), (0.75, 1.25)) for _ in range(2000)])
    top, left, height, width = crops.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 240).all() and (left + width <= 320).all()
    area, ratio = height * width / (240 * 320), width / height
    assert 0.29 < area.min() < 0.32 and 0.9 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77 and 1.23 < ratio.max() < 1.27


def test_a_frame_too_narrow_for_any_crop_gives_its_center():
    assert draw_crop(np.random.default_rng(0), 20, 400, (0.9, 1.0), (0.75, 1.25)) == (0, 187, 20, 25)
    assert draw_crop(np.random.default_rng(0), 400, 30, (0.9, 1.0), (0.75, 1.25)) == (180, 0, 40, 30)


def test_evaluation_takes_the_central_square():
    frames = center_crop_resize(decoded(ramp()), 60)
    np.testing.assert_array_equal(frames, ramp()[:, :, 10:70])


@pytest.mark.parametrize('factor', [2, 3])
def test_shrinking_does_not_alias(factor):
    board = (np.indices((64 * factor, 64 * factor)).sum(0) % 2 * 255).astype(np.uint8)
    frame = resized(np.repeat(board[..., None], 3, -1), 64)
    assert frame.std() < 30  # a fine checkerboard becomes gray


def test_bicubic_stays_bicubic_where_a_crop_shrinks():
    frames = np.random.default_rng(0).integers(256, size=(1, 128, 128, 3), dtype=np.uint8)
    whole = {**HOW, 'crop_area': (1, 1), 'crop_ratio': (1, 1), 'flip': 0}
    cubic = augment_clip(np.random.default_rng(0), decoded(frames), **{**whole, 'resize': 'bicubic'})
    np.testing.assert_array_equal(cubic[0], cv2.resize(frames[0], (32, 32), interpolation=cv2.INTER_CUBIC))
    np.testing.assert_array_equal(cubic, center_crop_resize(decoded(frames), 32, 'bicubic'))
    averaged = augment_clip(np.random.default_rng(0), decoded(frames), **whole)
    np.testing.assert_array_equal(averaged[0], cv2.resize(frames[0], (32, 32), interpolation=cv2.INTER_AREA))


def test_growing_is_bicubic():
    step = np.zeros((16, 16, 3), np.uint8)
    step[:, 8:] = 200
    frame = resized(step, 64)
    assert frame.max() > 200  # overshoots at an edge, as bilinear never does

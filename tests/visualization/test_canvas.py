import numpy as np
import pytest

from rvm_jax.storage import atomic
from rvm_jax.visualization import canvas


def test_enlarging_repeats_pixels_by_a_whole_factor():
    assert canvas.enlargement(48, 64, smallest=128) == 3
    assert canvas.enlargement(256, 512) == 1
    frames_THWC = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    large = canvas.enlarge(frames_THWC, 3)
    assert large.shape == (2, 9, 12, 3)
    for row, column in [(0, 0), (1, 2), (2, 2)]:
        assert (large[:, row::3, column::3] == frames_THWC).all()


def test_text_is_dark_on_white_and_cropped():
    short, long = canvas.text_picture('a', 14), canvas.text_picture('reconstruction', 14)
    assert short.dtype == np.uint8 and short.shape[0] == long.shape[0] == 21
    assert long.shape[1] > 3 * short.shape[1]
    assert long.min() < 100 and (long[:, -1] < 255).any() and (long[0] == 255).all()


def test_frames_keep_their_pixels_in_a_picture_of_named_rows():
    rng = np.random.default_rng(0)
    top_THWC, bottom_THWC = rng.integers(0, 256, (2, 3, 40, 50, 3), np.uint8)
    picture = canvas.named_rows([('top', top_THWC, ['a', 'b', 'c']), ('bottom', bottom_THWC[:2], [])])
    assert picture.dtype == np.uint8
    right, low = picture.shape[1] - canvas.MARGIN, picture.shape[0] - canvas.MARGIN
    left = right - 3 * 50 - 2 * canvas.GAP
    for index, frame_HWC in enumerate(bottom_THWC[:2]):
        start = left + index * (50 + canvas.GAP)
        assert (picture[low - 40 : low, start : start + 50] == frame_HWC).all()
    high = low - canvas.GAP - 40
    assert (picture[high - 40 : high, right - 50 : right] == top_THWC[2]).all()
    assert (picture[low - 40 : low, right - 50 : right] == 255).all(), 'the missing frame stays white'


def test_png_holds_the_rgb_picture(tmp_path):
    import cv2

    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    canvas.write_png(tmp_path / 'picture.png', picture)
    assert (cv2.imread(str(tmp_path / 'picture.png'))[..., ::-1] == picture).all()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'picture.png'
    atomic.write_bytes(path, b'old')
    with pytest.raises(TypeError):
        atomic.write_bytes(path, 'text is no bytes')
    assert path.read_bytes() == b'old'
    assert [file.name for file in tmp_path.iterdir()] == ['picture.png']

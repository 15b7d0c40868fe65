import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from rvm_jax import config as configs
from rvm_jax.data.augment import augment_clip, center_crop_resize
from rvm_jax.data.loader import AUGMENTATION
from rvm_jax.data.video import lazy_frames
from rvm_jax.data.video.lazy_frames import decoded, encoded
from rvm_jax.errors import DataError

HOW = {'image_size': 32} | {name: configs.default().data[name] for name in AUGMENTATION}


def soft_frames(num_frames=3, height=150, width=203):
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, 127 + 100 * np.sin(x / 40 + y / 60)], -1)
    return np.stack([image + 5 * i for i in range(num_frames)]).clip(0, 255).astype(np.uint8)


def compress(frames, kind='.jpg'):
    return [cv2.imencode(kind, frame[..., ::-1])[1].tobytes() for frame in frames]


@pytest.mark.parametrize('kind', ['.jpg', '.png'])
def test_encoded_pictures_come_back_in_color_and_order(kind):
    frames = soft_frames()
    found = encoded('a', compress(frames, kind))
    assert (found.num_frames, found.height, found.width) == frames.shape[:3]
    assert np.abs(np.stack(found.decode()).astype(int) - frames).mean() < 1


def test_jpeg_decodes_at_a_fraction_of_its_size():
    found = encoded('a', compress(soft_frames()))
    assert [found.decode(shrink)[0].shape for shrink in (1, 2, 4, 8)] == [
        (150, 203, 3), (75, 102, 3), (38, 51, 3), (19, 26, 3)]  # fmt: skip
    small = cv2.resize(soft_frames()[0], (102, 75), interpolation=cv2.INTER_AREA)
    assert np.abs(found.decode(2)[0].astype(int) - small).mean() < 2


def test_clips_of_large_jpegs_are_those_of_the_whole_frames():
    frames = soft_frames()
    shrinks = []

    def spied(found):
        return lazy_frames.LazyFrames(
            found.num_frames, found.height, found.width, lambda s: shrinks.append(s) or found.decode(s)
        )

    for seed in range(20):
        pair = spied(encoded('a', compress(frames))), decoded(frames)
        found, expected = (augment_clip(np.random.default_rng(seed), p, **HOW).astype(int) for p in pair)
        assert np.abs(found - expected).mean() < 1.5
    assert 2 in shrinks and 4 in shrinks and 8 not in shrinks  # 32 pixels of crops from 77 to 150
    pair = spied(encoded('a', compress(frames))), decoded(frames)
    found, expected = (center_crop_resize(p, 100).astype(int) for p in pair)
    assert shrinks[-1] == 1 and np.abs(found - expected).mean() < 1


def test_pictures_that_cannot_be_used_are_named(monkeypatch):
    good, *_ = compress(soft_frames())
    with pytest.raises(DataError, match='a: holds something that is no picture'):
        encoded('a', [b'no picture'])
    with pytest.raises(DataError, match='a: holds a picture that cannot be decoded'):
        encoded('a', [good, good[: good.index(b'\xff\xda')]]).decode()
    with pytest.raises(DataError, match='a: changes its size'):
        encoded('a', [good, *compress(soft_frames(1, 40, 40))])
    monkeypatch.setattr(lazy_frames, 'MAX_PIXELS', 1000)
    with pytest.raises(DataError, match='a: has frames of 203 x 150 pixels, more than'):
        encoded('a', [good])


def test_a_huge_picture_is_refused_before_it_is_decoded():
    blob = bytearray(compress(soft_frames(1, 40, 40), '.png')[0])
    blob[16:24] = (9_000).to_bytes(4, 'big') * 2
    blob[29:33] = zlib.crc32(blob[12:29]).to_bytes(4, 'big')
    with pytest.raises(DataError, match='9000 x 9000 pixels'):
        encoded('a', [bytes(blob)])


def test_the_size_of_a_jpeg_is_found_where_pillow_finds_it():
    for progressive in (False, True):
        for size in ((1, 1), (33, 7), (480, 640)):
            file = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by 90 degrees
            Image.fromarray(soft_frames(1, *size)[0]).save(file, 'jpeg', progressive=progressive, exif=exif)
            found = encoded('a', [file.getvalue()])
            assert (found.height, found.width) == size == found.decode()[0].shape[:2]
            assert lazy_frames._jpeg_size(file.getvalue()) == size


def test_a_later_frame_cannot_smuggle_in_a_huge_one():
    small, huge = compress(soft_frames(1, 40, 40))[0], bytearray(compress(soft_frames(1, 48, 48))[0])
    place = huge.index(b'\xff\xc0')
    huge[place + 5 : place + 9] = (60_000).to_bytes(2, 'big') * 2
    with pytest.raises(DataError, match='60000 x 60000 pixels'):
        encoded('a', [small, bytes(huge)])

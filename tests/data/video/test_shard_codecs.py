import numpy as np
import pytest

from rvm_jax.data.video.shard_codecs import encode_group, group_pictures
from rvm_jax.errors import DataError


def moving(num_frames, height=64, width=96):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin((x + 3 * i) / 9) * np.cos((y + i) / 7) for i in range(num_frames)]
    return [np.stack([wave, 255 - wave, wave / 2], -1).astype(np.uint8) for wave in waves]


@pytest.mark.parametrize(('codec', 'group'), [('jpeg', 1), ('h264', 8), ('h264', 5)])
def test_any_few_frames_come_back_in_order_without_the_rest(codec, group):
    frames = moving(20)
    records = [encode_group(frames[i : i + group], codec, {'jpeg': 95, 'h264': 10}[codec]) for i in range(0, 20, group)]
    wanted = [3, 4, 11, 19]
    places = [divmod(frame, group) for frame in wanted]
    needed = {number: records[number] for number, _ in places}
    found = group_pictures('a', needed, places, codec)
    assert (found.num_frames, found.height, found.width) == (4, 64, 96)
    for frame, number in zip(found.decode(), wanted, strict=True):
        errors = [np.abs(frame.astype(int) - other).mean() for other in frames]
        assert np.argmin(errors) == number and errors[number] < 5  # colors have half the resolution


def test_the_same_frames_give_the_same_bytes():
    assert encode_group(moving(1), 'jpeg', 90) == encode_group(moving(1), 'jpeg', 90)


def test_h264_is_smaller_the_more_frames_decode_together():
    frames = moving(32)
    sizes = [sum(len(encode_group(frames[i : i + g], 'h264', 20)) for i in range(0, 32, g)) for g in (1, 8, 32)]
    assert sizes[0] > 2 * sizes[1] > 3 * sizes[2]


def test_a_group_that_lacks_frames_or_is_no_video_is_named():
    record = encode_group(moving(8), 'h264', 20)
    with pytest.raises(DataError, match=r'a: holds frames that cannot be decoded \(8 of 10 are there\)'):
        group_pictures('a', {0: record}, [(0, 9)], 'h264')
    with pytest.raises(DataError, match='a: holds frames that cannot be decoded'):
        group_pictures('a', {0: b'no video at all' * 100}, [(0, 0)], 'h264')

"""GIFs: the right frame at the right time, by content, wherever reading begins.

What a GIF shows is composed here as the GIF89a specification says (section 23), and by Pillow.
"""

import av
import numpy as np
import pytest
from PIL import Image

from rvm_jax.data.video.decode import open_video, probe, read_frames
from rvm_jax.errors import DataError

EVEN = [100] * 12
UNEVEN = [40, 200, 500, 60, 100, 1000, 30, 20, 70, 90, 50, 120]
WIDTH, HEIGHT, NOTHING = 40, 30, -1
KEEP, CLEAR, RESTORE = 1, 2, 3  # what becomes of a picture when its time is over
PALETTE = (np.arange(256)[:, None] * (37, 91, 53) % 256).astype(np.uint8)


@pytest.fixture
def make(tmp_path, draw_number):
    """make(delays) -> a GIF of numbered frames by Pillow; each is shown for so many milliseconds."""

    def write(delays, **how):
        frames = []
        for number in range(len(delays)):
            image_HWC = draw_number(number, 80, 64)
            image_HWC[50:60, 6 * number % 70 : 6 * number % 70 + 8] = (200, 30, 30)
            frames.append(Image.fromarray(image_HWC))
        path = tmp_path / 'a.gif'
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, loop=0, **how)
        return path

    return write


def by_pillow(path):
    """[(seconds, frame)] of all frames, as Pillow composes them."""
    found, time_s = [], 0.0
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            found.append((time_s, np.asarray(image.convert('RGB'))))
            time_s += image.info['duration'] / 1000
    return found


def packed(values):
    """LZW of numbers below 256 in codes of 9 bits: the table is cleared before it would need more."""
    codes = [code for place, value in enumerate(values) for code in ([256, value] if place % 200 == 0 else [value])]
    bits = sum(code << (9 * place) for place, code in enumerate([*codes, 257]))
    data = bits.to_bytes((9 * (len(codes) + 1) + 7) // 8, 'little')
    return b'\x08' + b''.join(bytes([len(part := data[i : i + 255])]) + part for i in range(0, len(data), 255)) + b'\0'


def write_gif(path, pictures):
    """pictures: [(left, top, indices_HW, what becomes of it, hundredths of a second, transparent index or None)]."""

    def words(*values):
        return b''.join(int(value).to_bytes(2, 'little') for value in values)

    data = b'GIF89a' + words(WIDTH, HEIGHT) + bytes([0xF7, 0, 0]) + PALETTE.tobytes()
    for left, top, indices_HW, disposal, delay, transparent in pictures:
        flags = disposal << 2 | (transparent is not None)
        data += b'\x21\xf9\x04' + bytes([flags]) + words(delay) + bytes([transparent or 0, 0])
        data += b'\x2c' + words(left, top, *indices_HW.shape[::-1]) + b'\0' + packed(indices_HW.ravel().tolist())
    path.write_bytes(data + b'\x3b')


def by_specification(pictures):
    """[(seconds, indices_HW)] of what is shown; NOTHING where there is no picture."""
    canvas_HW, found, hundredths = np.full((HEIGHT, WIDTH), NOTHING), [], 0
    for left, top, indices_HW, disposal, delay, transparent in pictures:
        before_HW, canvas_HW = canvas_HW, canvas_HW.copy()
        place = slice(top, top + indices_HW.shape[0]), slice(left, left + indices_HW.shape[1])
        is_seen_HW = np.full(indices_HW.shape, True) if transparent is None else indices_HW != transparent
        canvas_HW[place] = np.where(is_seen_HW, indices_HW, canvas_HW[place])
        found.append((hundredths / 100, canvas_HW))
        hundredths += delay
        if disposal == RESTORE:
            canvas_HW = before_HW
        if disposal == CLEAR:
            canvas_HW = canvas_HW.copy()
            canvas_HW[place] = NOTHING
    return found


def check_frames(path, expected, is_equal):
    """All frames, a stream, all ticks at once and single ticks are what is nearest in expected, [(seconds, frame)]."""
    with open_video(path) as video:
        frames = list(video.stream())
        assert video.info().num_frames == len(frames) == len(expected)
        for frame_HWC, (_, shown) in zip(frames, expected, strict=True):
            assert is_equal(frame_HWC, shown)
        ticks, streamed = range(video.count(20)), list(video.stream(20))
    times_s = np.array([time_s for time_s, _ in expected])
    for tick in ticks:
        nearest = int(np.argmin(np.abs(times_s - tick / 20).round(6)))  # of two, the earlier one
        assert is_equal(streamed[tick], expected[nearest][1])
        assert np.array_equal(read_frames(path, [tick], 20)[0], streamed[tick])
    assert np.array_equal(read_frames(path, ticks, 20), streamed)


@pytest.mark.parametrize('delays', [EVEN, UNEVEN], ids=['even', 'uneven'])
@pytest.mark.parametrize('disposal', [0, KEEP, CLEAR])
def test_every_frame_is_shown_as_pillow_shows_it(make, delays, disposal):
    path = make(delays, disposal=disposal)
    expected = by_pillow(path)
    assert len(expected) == len(delays)
    check_frames(path, expected, np.array_equal)


@pytest.mark.parametrize('first', ['whole', 'part', 'transparent'])
@pytest.mark.parametrize('seed', range(6))
def test_every_frame_is_composed_as_the_specification_says(tmp_path, first, seed):
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(14):
        height, width = rng.integers(2, 12, 2)
        if number == 0:
            height, width = (20, 25) if first == 'part' else (HEIGHT, WIDTH)
        left, top = rng.integers(0, (WIDTH - width + 1, HEIGHT - height + 1))
        transparent = 7 if (first == 'transparent' if number == 0 else rng.random() < 0.5) else None
        indices_HW = rng.integers(8, 256, (height, width))
        indices_HW[rng.random((height, width)) < 0.3] = 7
        disposal = KEEP if number == 0 else int(rng.choice([0, KEEP, CLEAR, RESTORE]))
        pictures.append((left, top, indices_HW, disposal, int(rng.integers(2, 40)), transparent))
    write_gif(tmp_path / 'a.gif', pictures)

    def is_equal(frame_HWC, indices_HW):
        return np.array_equal(frame_HWC[indices_HW >= 0], PALETTE[indices_HW[indices_HW >= 0]])

    check_frames(tmp_path / 'a.gif', by_specification(pictures), is_equal)


def test_a_long_gif_is_read_from_any_place(make, read_number):
    path = make([40] * 300)
    assert [read_number(read_frames(path, [tick], 25)[0]) for tick in (299, 0, 150, 151, 7)] == [299, 0, 150, 151, 7]
    with open_video(path) as video:
        assert video.count(25) == 300 and video.count(5) == 60


def test_a_gif_of_one_frame_is_a_video_of_one_tick(make, read_number):
    path = make([100])
    with open_video(path) as video:
        assert video.count(10) == video.count(1) == 1 and video.info().num_frames == 1
        assert read_number(video.read([0], 10)[0]) == 0 and len(list(video.stream(30))) == video.count(30)
    with pytest.raises(DataError, match='ends before it should'):
        read_frames(path, [5], 10)


def test_a_delay_of_zero_counts_as_a_tenth_of_a_second(make, read_number):
    path = make([0] * 6)
    assert [read_number(frame) for frame in read_frames(path, range(6), 10)] == list(range(6))


def test_a_gif_of_ffmpeg_is_read_at_its_rate(tmp_path, draw_number, read_number):
    with av.open(str(tmp_path / 'a.gif'), 'w') as container:
        stream = container.add_stream('gif', rate=20)
        stream.width, stream.height, stream.pix_fmt = 80, 64, 'rgb8'
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(draw_number(number, 80, 64), format='rgb24')
            container.mux(stream.encode(frame.reformat(format='rgb8')))
        container.mux(stream.encode())
    assert probe(tmp_path / 'a.gif').fps == 20
    assert [read_number(frame) for frame in read_frames(tmp_path / 'a.gif', range(0, 15, 3), 10)] == [0, 6, 12, 18, 24]


def test_a_gif_that_was_cut_off_is_used_up_to_the_cut(make, read_number):
    path = make(EVEN)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert read_number(read_frames(path, [3], 10)[0]) == 3

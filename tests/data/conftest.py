"""Small videos whose frames say in black and white stripes which number they have."""

import fractions
import math
import struct

import av
import numpy as np
import pytest

from rvm_jax import config

NUM_BITS = 10


def draw_number(number, width, height):
    """(H, W, 3) uint8: the upper half shows the bits of number from left to right, the lower half is gray."""
    image = np.full((height, width, 3), 90, np.uint8)
    bits = [(number >> bit) & 1 for bit in range(NUM_BITS)]
    stripes = np.array(bits)[np.arange(width) * NUM_BITS // width]
    image[: height // 2] = 30 + 180 * stripes[None, :, None]
    return image


def read_number(frame):
    """What draw_number drew, at any size; AssertionError if the picture is not upright."""
    height, width = frame.shape[:2]
    gray = frame.mean(-1)
    assert abs(gray[int(height * 0.85)].mean() - 90) < 15, 'the gray half is not at the bottom'
    columns = ((np.arange(NUM_BITS) + 0.5) * width / NUM_BITS).astype(int)
    return sum(int(bit) << i for i, bit in enumerate(gray[height // 4, columns] > 120))


def write_video(path, num_frames=40, fps=10, size=(80, 64), codec='libx264', pix_fmt='yuv420p', times_ms=None, **how):
    """Encode numbered frames. how: gop, first_ms, audio (seconds), rotation (stored, then marked), options, muxer."""
    width, height = size
    with av.open(str(path), 'w', options=how.get('muxer', {})) as container:
        stream = container.add_stream(codec, rate=fps, options={'crf': '10', **how.get('options', {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = how.get('gop', 12)
        sound = container.add_stream('aac', rate=8000) if how.get('audio') else None
        if times_ms is not None or how.get('first_ms'):
            times_ms = times_ms or [how['first_ms'] + 1000 * i // fps for i in range(num_frames)]
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for i in range(num_frames):
            image = draw_number(i, *(size if how.get('rotation', 0) % 180 == 0 else size[::-1]))
            image = np.ascontiguousarray(np.rot90(image, -how.get('rotation', 0) // 90))
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts = i if times_ms is None else times_ms[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            _encode_sound(container, sound, how['audio'])
    if how.get('rotation'):
        _mark_rotation(path, how['rotation'])
    return str(path)


def _encode_sound(container, stream, seconds):
    for i in range(math.ceil(seconds * 8000 / 1024)):
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        samples.sample_rate, samples.pts = 8000, i * 1024
        container.mux(stream.encode(samples))
    container.mux(stream.encode())


def _mark_rotation(path, degrees):
    """Write a display matrix into an MP4's track header: turn counter-clockwise by degrees to see it upright."""
    content = bytearray(open(path, 'rb').read())
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    matrix = struct.pack('>9i', cos << 16, -sin << 16, 0, sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    start = content.index(b'tkhd') + 44
    content[start : start + 36] = matrix
    with open(path, 'wb') as file:
        file.write(content)


@pytest.fixture(name='write_video', scope='session')
def _write_video():
    return write_video


@pytest.fixture(name='draw_number', scope='session')
def _draw_number():
    return draw_number


@pytest.fixture(name='read_number', scope='session')
def _read_number():
    return read_number


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Five videos of 30 numbered frames."""
    path = tmp_path_factory.mktemp('videos')
    for i in range(5):
        write_video(path / f'{i}.mp4', 30, size=(80, 64))
    return path


@pytest.fixture
def data():
    """`config.data` for clips of 2 source and 3 target frames of 32 pixels, made in the process itself."""
    c = config.default().data
    c.image_size, c.num_source, c.num_target, c.min_gap, c.max_gap, c.num_workers = 32, 2, 3, 1, 12, 0
    return c

"""Small clips with a marker in them, and what every source of examples promises."""

import av
import cv2
import numpy as np
import pytest


def draw_marker(x, y, width, height, size=8, shade=60):
    """(height, width, 3) uint8: a green square of size pixels around (x, y) in [0, 1], on gray."""
    frame = np.full((height, width, 3), shade, np.uint8)
    left, top = round(x * width - size / 2), round(y * height - size / 2)
    frame[max(top, 0) : top + size, max(left, 0) : left + size] = (30, 220, 30)
    return frame


def find_marker(frame_HWC):
    """(x, y) in [0, 1] of the middle of what is not gray, None where everything is."""
    greenness = frame_HWC[..., 1].astype(int) - frame_HWC[..., 0]
    if greenness.max() < 40:
        return None
    rows, columns = np.nonzero(greenness > greenness.max() / 2)
    return (columns.mean() + 0.5) / frame_HWC.shape[1], (rows.mean() + 0.5) / frame_HWC.shape[0]


def write_clip(path, frames, fps=12, codec='libx264'):
    """Encode frames HWC with even sides; the folder comes into being."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=fps, options={'crf': '10', 'cpu-used': '8', 'deadline': 'realtime'})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], 'yuv420p'
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_image(path, values):
    """A picture file of RGB, or of numbers as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(values, path.suffix))


def encode_image(values, kind='.png'):
    values = values[..., ::-1] if values.ndim == 3 else values
    return cv2.imencode(kind, values, [] if kind == '.png' else [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def differing(one, other):
    """Names of what differs between two examples."""
    assert one.keys() == other.keys()
    return [name for name in one if not np.array_equal(one[name], other[name])]


def check_source(source, index, kinds):
    """The shapes and dtypes {name: (shape, dtype)}; evaluation repeats itself; draws differ by rng, and by it alone."""
    example = source.example(index)
    draws = [source.example(index, np.random.default_rng(seed)) for seed in range(6)]
    for found in (example, *draws):
        assert isinstance(found['id'], str)
        assert {
            name: (np.shape(found[name]), np.asarray(found[name]).dtype.name) for name in found if name != 'id'
        } == {name: (shape, np.dtype(dtype).name) for name, (shape, dtype) in kinds.items()}
    assert not differing(example, source.example(index))
    assert not differing(draws[0], source.example(index, np.random.default_rng(0)))
    assert any(differing(draws[0], other) for other in draws[1:])
    return example, draws


@pytest.fixture(name='draw_marker', scope='session')
def _draw_marker():
    return draw_marker


@pytest.fixture(name='find_marker', scope='session')
def _find_marker():
    return find_marker


@pytest.fixture(name='write_clip', scope='session')
def _write_clip():
    return write_clip


@pytest.fixture(name='write_image', scope='session')
def _write_image():
    return write_image


@pytest.fixture(name='encode_image', scope='session')
def _encode_image():
    return encode_image


@pytest.fixture(name='check_source', scope='session')
def _check_source():
    return check_source

import struct

import av
import numpy as np
import pytest

from rvm_jax.data.video.decode import iterate_frames, probe, read_frames
from rvm_jax.errors import DataError

# x' = a x + c y, y' = b x + d y of a display matrix: what it makes of a stored frame.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, 1, -1, 0): lambda image: image.swapaxes(0, 1)[:, ::-1],
    (0, -1, 1, 0): lambda image: image.swapaxes(0, 1)[::-1],
    (0, -1, -1, 0): lambda image: image.swapaxes(0, 1)[::-1, ::-1],
}


def set_matrix(path, a, b, c, d):
    content = bytearray(path.read_bytes())
    start = content.index(b'tkhd') + 44
    one = 1 << 16
    numbers = [round(a * one), round(b * one), 0, round(c * one), round(d * one), 0, 0, 0, 1 << 30]
    content[start : start + 36] = struct.pack('>9i', *numbers)
    path.write_bytes(content)


@pytest.mark.parametrize('matrix', ORIENTATIONS)
def test_all_eight_orientations_are_upright(tmp_path, write_video, matrix):
    path = tmp_path / 'a.mp4'
    write_video(path, 6)
    stored = list(iterate_frames(path))
    set_matrix(path, *matrix)
    shown = [ORIENTATIONS[matrix](frame) for frame in stored]
    np.testing.assert_array_equal(np.stack(list(iterate_frames(path))), shown)
    np.testing.assert_array_equal(read_frames(path, [4], 10)[0], shown[4])
    info = probe(path)
    assert (info.height, info.width) == shown[0].shape[:2]
    turned = np.rot90(stored[0], info.rotation // 90)
    np.testing.assert_array_equal(turned[:, ::-1] if info.is_mirrored else turned, shown[0])


def test_another_angle_is_named(tmp_path, write_video):
    path = tmp_path / 'a.mp4'
    write_video(path, 3)
    set_matrix(path, 0.7071, -0.7071, 0.7071, 0.7071)
    with pytest.raises(DataError, match='is turned by 45 degrees, which is not a multiple of 90'):
        probe(path)


def test_a_matrix_of_zeros_says_nothing(tmp_path, write_video):
    path = tmp_path / 'a.mp4'
    write_video(path, 3)
    set_matrix(path, 0, 0, 0, 0)
    assert probe(path).rotation == 0


@pytest.mark.parametrize('codec, message', [('libx264', '062f03080060'), ('libx265', '4e012f03080060')])
@pytest.mark.parametrize('name', ['a.mkv', 'a.ts'])
def test_orientation_said_in_pictures_is_named(tmp_path, write_video, codec, message, name):
    source = write_video(tmp_path / 'source.mp4', 12, codec=codec, options={'x265-params': 'log-level=none'})
    message = bytes.fromhex(message + '80')
    with av.open(source) as video, av.open(str(tmp_path / name), 'w') as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for number, packet in enumerate(packet for packet in video.demux(video=0) if packet.size):
            if number == 0:
                packet = with_data(packet, struct.pack('>I', len(message)) + message)
            packet.stream = stream
            output.mux(packet)
    probe(source)
    with pytest.raises(DataError, match='says in single pictures which way up all are'):
        probe(tmp_path / name)


def with_data(packet, data):
    """A packet with some more data in front."""
    changed = av.Packet(data + bytes(packet))
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.is_keyframe = packet.is_keyframe
    return changed

import av
import numpy as np
import pytest

from rvm_jax.visualization import movies


def read(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        return np.stack(frames), (stream.average_rate, stream.codec_context.pix_fmt)


def test_colors_survive_the_file_at_sixteen_frames_a_second(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)]
    frames_THWC = np.array(colors, np.uint8)[:, None, None].repeat(32, 1).repeat(48, 2)
    movies.write_video(tmp_path / 'a.mp4', frames_THWC)
    back_THWC, described = read(tmp_path / 'a.mp4')
    assert back_THWC.shape == frames_THWC.shape
    assert np.abs(back_THWC.astype(int) - frames_THWC).max() <= 6
    assert described == (16, 'yuv420p')


def test_odd_sides_are_padded_to_even_by_repeating_the_edge(tmp_path):
    frames_THWC = np.full((3, 15, 21, 3), 90, np.uint8)
    movies.write_video(tmp_path / 'odd.mp4', iter(frames_THWC))
    back_THWC, _ = read(tmp_path / 'odd.mp4')
    assert back_THWC.shape == (3, 16, 22, 3)
    assert np.abs(back_THWC.astype(int) - 90).max() <= 4


def test_a_failure_leaves_no_file_behind(tmp_path):
    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError('decoder died')

    with pytest.raises(RuntimeError):
        movies.write_video(tmp_path / 'a.mp4', broken())
    with pytest.raises(ValueError, match='no frames'):
        movies.write_video(tmp_path / 'b.mp4', [])
    assert list(tmp_path.iterdir()) == []

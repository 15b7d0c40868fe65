"""What happens to each kind of odd file: the table in docs/data.md, on real files."""

import fractions
import os
import random

import av
import numpy as np
import pytest

from rvm_jax.data.loader import ClipMaker, make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.data.video.decode import open_video, probe, read_frames
from rvm_jax.errors import DataError

NO_VIDEO = 'cannot be opened as a video (Invalid data found when processing input)'
X265 = 'log-level=none'
HDR = f'{X265}:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc'
# What write_video is asked for, and (frames at 10 a second, height, width), or why the file is skipped.
ENCODED = {
    'one_frame.mp4': ({'num_frames': 1}, 'has too few frames (1, a clip needs 3)'),
    'two_frames.mkv': ({'num_frames': 2, 'options': {'bf': '2'}}, 'has too few frames (2, a clip needs 3)'),
    'three_frames.mp4': ({'num_frames': 3}, (3, 64, 80)),
    'three_frames.mkv': ({'num_frames': 3, 'options': {'bf': '2'}}, (3, 64, 80)),
    'long.mp4': ({'num_frames': 10_000, 'size': (32, 32), 'options': {'preset': 'ultrafast'}}, (10_000, 32, 32)),
    'one_pixel.mkv': ({'size': (1, 1), 'codec': 'ffv1', 'pix_fmt': 'yuv444p'}, (40, 1, 1)),
    'two_pixels.mp4': ({'size': (2, 2)}, (40, 2, 2)),
    'odd_size.mp4': ({'size': (81, 63), 'pix_fmt': 'yuv444p'}, (40, 63, 81)),
    'portrait.mp4': ({'size': (64, 96)}, (40, 96, 64)),
    'narrow.mp4': ({'size': (640, 32)}, (40, 32, 640)),
    'rotated.mp4': ({'rotation': 90}, (40, 80, 64)),
    'hdr.mp4': ({'codec': 'libx265', 'pix_fmt': 'yuv420p10le', 'options': {'x265-params': HDR}}, (40, 64, 80)),
    'full_color.mp4': ({'pix_fmt': 'yuv444p'}, (40, 64, 80)),
    'gray.mp4': ({'pix_fmt': 'gray'}, (40, 64, 80)),
    'interlaced.mp4': ({'options': {'x264-params': 'interlaced=1:tff=1'}}, (40, 64, 80)),
    'variable_rate.mkv': ({'fps': 30, 'times_ms': [*range(0, 400, 40), *range(500, 3500, 100)]}, (35, 64, 80)),
    'spaces, ünicode and\na: line.mp4': ({}, (40, 64, 80)),
    'no_times.h264': ({}, 'has no frame with a timestamp'),
}
# Made by the functions below.
SPOILED = {
    'empty.mp4': 'is empty (0 bytes)',
    'cut.mp4': NO_VIDEO,
    'cut.mkv': 'ends before it should',
    'garbage.mp4': NO_VIDEO,
    'page.mp4': NO_VIDEO,
    'sound.mp4': 'has no video stream',
    'no_rate.mkv': (81, 64, 80),
    'no_times.mp4': 'has too few frames (2, a clip needs 3)',
    'dangling.mp4': 'cannot be read (No such file or directory)',
    'pipe.mp4': 'cannot be read (is not a regular file)',
}
OUTCOMES = {**{name: outcome for name, (_, outcome) in ENCODED.items()}, **SPOILED}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, write_video):
    path = tmp_path_factory.mktemp('odd')
    for name, (how, _) in ENCODED.items():
        write_video(path / name, **how)
    (path / 'empty.mp4').touch()
    for name in ('cut.mp4', 'cut.mkv'):
        write_video(path / name, 1000, size=(32, 32))
        os.truncate(path / name, os.path.getsize(path / name) // 10)
    (path / 'garbage.mp4').write_bytes(random.Random(0).randbytes(3000))
    (path / 'page.mp4').write_text('<!DOCTYPE html><html><body>404 not found</body></html>' * 50)
    write_sound(path / 'sound.mp4')
    write_without_rate(path / 'no_rate.mkv')
    write_video(path / 'no_times.mp4', 30, options={'bf': '0'})
    set_frame_times_to_0(path / 'no_times.mp4')
    (path / 'dangling.mp4').symlink_to('nowhere.mp4')
    os.mkfifo(path / 'pipe.mp4')
    return path


def write_sound(path):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_without_rate(path):
    """Three pictures of 4 seconds each; neither the file nor its frames tell a frame rate."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', options={'bf': '0'})
        stream.width, stream.height, stream.pix_fmt = 80, 64, 'yuv420p'
        stream.codec_context.time_base, stream.codec_context.framerate = fractions.Fraction(1, 1000), 0
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 80, 3), 80 * i, np.uint8), format='rgb24')
            frame.pts, frame.time_base = 4000 * i, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def set_frame_times_to_0(path):
    content = bytearray(path.read_bytes())
    table = content.index(b'stts')
    content[table + 16 : table + 20] = bytes(4)  # how long each frame is shown
    path.write_bytes(content)


@pytest.mark.parametrize('name', OUTCOMES)
def test_an_odd_file_gives_clips_or_says_why_not(folder, data, name):
    mixture = Mixture([Part(FolderSource(folder), fps=10)])
    record = mixture.parts[0].source.names.index(name) if name != 'no_times.h264' else None
    if record is None:  # a name that folders do not take for a video, but a list may have
        (folder / 'list.txt').write_text(name)
        mixture, record = Mixture([Part(FolderSource(folder / 'list.txt'), fps=10)]), 0
    maker = ClipMaker(mixture, data, seed=0, order=None, is_training=True)
    outcome = OUTCOMES[name]
    if isinstance(outcome, str):
        with pytest.raises(DataError) as error:
            maker.read(record, np.random.default_rng(0))
        assert error.value.reason.startswith(outcome) and '\n' not in error.value.reason
        return
    with open_video(folder / name) as video:
        assert video.count(10) == outcome[0]
        assert video.read([0, outcome[0] - 1], 10).shape == (2, *outcome[1:], 3)
    clip = maker.read(record, np.random.default_rng(0))
    assert clip['frames_THWC'].shape == (5, 32, 32, 3)


@pytest.mark.parametrize('name', ['long.mp4', 'portrait.mp4', 'hdr.mp4', 'gray.mp4', 'interlaced.mp4'])
def test_frames_of_an_odd_file_are_the_ones_asked_for(folder, read_number, name):
    last = 9_999 if name == 'long.mp4' else 39
    found = [read_number(frame) for frame in read_frames(folder / name, [0, 17, last], fps=10)]
    assert found == [0, 17, last % 1024]


def test_a_frame_rate_of_none_is_no_obstacle(folder):
    assert probe(folder / 'no_rate.mkv').fps is None
    values = read_frames(folder / 'no_rate.mkv', [0, 19, 21, 79], fps=10).mean((1, 2, 3))
    np.testing.assert_allclose(values, [0, 0, 80, 160], atol=3)  # the nearest picture: 1.9 s is next to 0 s


def test_an_epoch_of_odd_files_names_each_one_that_is_skipped(folder, data):
    names = FolderSource(folder).names
    assert sorted([*names, 'no_times.h264']) == sorted(OUTCOMES)
    data.num_workers = 1
    found = []
    for _ in range(2):
        with make_loader(Mixture([Part(FolderSource(folder), 10)]), data, seed=1, batch_size=len(names)) as loader:
            found.append(next(loader))
    assert found[0]['failures'] == found[1]['failures']
    np.testing.assert_array_equal(found[0]['record_B'], found[1]['record_B'])
    np.testing.assert_array_equal(found[0]['source_BTHWC'], found[1]['source_BTHWC'])
    reasons = {os.path.basename(path): reason for _, path, reason in found[0]['failures']}
    assert reasons.keys() == {name for name in names if isinstance(OUTCOMES[name], str)}
    assert all(reason.startswith(OUTCOMES[name]) for name, reason in reasons.items())
    used = {names[record] for record in found[0]['record_B']}
    assert used == {name for name in names if not isinstance(OUTCOMES[name], str)}

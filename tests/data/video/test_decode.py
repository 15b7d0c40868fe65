import os
import subprocess
import sys

import av
import numpy as np
import pytest

from rvm_jax.data.video.decode import iterate_frames, open_video, probe, read_frames
from rvm_jax.errors import DataError

TICKS = [0, 1, 2, 3, 7, 38, 20, 20]


@pytest.mark.parametrize(
    'name, how',
    [
        ('b_frames.mp4', {'gop': 250, 'options': {'bf': '3'}}),
        ('no_b_frames.mp4', {'options': {'bf': '0'}}),
        ('all_intra.mp4', {'gop': 1}),
        ('h265.mp4', {'codec': 'libx265', 'options': {'x265-params': 'log-level=none'}}),
        ('10_bit.mp4', {'codec': 'libx265', 'pix_fmt': 'yuv420p10le', 'options': {'x265-params': 'log-level=none'}}),
        ('full_color.mp4', {'pix_fmt': 'yuv444p', 'size': (81, 63)}),
        ('audio.mp4', {'audio': 6}),
        ('matroska.mkv', {}),
        ('no_duration.mkv', {'muxer': {'live': '1'}}),
        ('late_start.mkv', {'first_ms': 5000}),
        ('late_start.ts', {'first_ms': 5000}),
        ('old.avi', {'codec': 'mpeg4', 'options': {'bf': '2', 'qscale': '1'}}),
        ('web.webm', {'codec': 'libvpx', 'options': {'deadline': 'realtime', 'cpu-used': '8', 'b': '2M'}}),
        ('name with spaces, ü and\nnewline: x.mp4', {}),
    ],
)
def test_frames_are_the_ones_asked_for(tmp_path, write_video, read_number, name, how):
    path = write_video(tmp_path / name, **how)
    frames = read_frames(path, TICKS, fps=10)
    assert [read_number(frame) for frame in frames] == TICKS
    with open_video(path) as video:
        assert video.count(10) == 40
    assert [read_number(frame) for frame in iterate_frames(path)] == list(range(40))
    assert [read_number(frame) for frame in iterate_frames(path, fps=5)] == list(range(0, 40, 2))


@pytest.mark.parametrize('size', [(81, 63), (80, 63), (81, 64)])
def test_odd_sizes_keep_every_pixel(tmp_path, write_video, read_number, size):
    path = write_video(tmp_path / 'odd.mkv', 5, size=size, pix_fmt='yuv444p')
    frames = read_frames(path, [4], fps=10)
    assert frames.shape == (1, size[1], size[0], 3)
    assert read_number(frames[0]) == 4


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_rotated_video_is_upright(tmp_path, write_video, read_number, rotation):
    path = write_video(tmp_path / 'phone.mp4', 15, rotation=rotation)
    upright = (64, 80) if rotation == 180 else (80, 64)
    info = probe(path)
    assert (info.height, info.width, info.rotation) == (*upright, rotation)
    frames = read_frames(path, [3, 14], fps=10)
    assert frames.shape == (2, *upright, 3)
    assert [read_number(frame) for frame in frames] == [3, 14]


def test_variable_frame_rate_uses_timestamps(tmp_path, write_video, read_number):
    times_ms = [0, 10, 20, 30, 500, 510, 1000, 1990, 2000, 2010]
    path = write_video(tmp_path / 'vfr.mkv', 10, fps=30, times_ms=times_ms)
    frames = read_frames(path, [0, 1, 5, 10, 15, 20], fps=10)
    # Ticks 0, 0.1, 0.5, 1, 1.5 and 2 s; 1.5 s is nearer to 1.99 s than to 1 s by a hair.
    assert [read_number(frame) for frame in frames] == [0, 3, 4, 6, 7, 8]


def test_the_nearest_frame_is_taken_and_the_earlier_of_equals(tmp_path, write_video, read_number):
    path = write_video(tmp_path / 'slow.mp4', 10, fps=10)
    frames = read_frames(path, range(8), fps=40)
    assert [read_number(frame) for frame in frames] == [0, 0, 0, 1, 1, 1, 1, 2]


def test_reading_a_few_frames_equals_decoding_everything(tmp_path, write_video):
    path = write_video(tmp_path / 'long.mp4', 200, fps=30, gop=60, options={'bf': '3', 'b-pyramid': 'normal'})
    everything = np.stack(list(iterate_frames(path)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        ticks = np.concatenate([rng.integers(197) + np.arange(4), rng.integers(200, size=4)])
        np.testing.assert_array_equal(read_frames(path, ticks, fps=30), everything[ticks])


def test_only_what_is_needed_is_decoded(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / 'long.mp4', 300, fps=30, gop=30, options={'bf': '0'})
    with open_video(path) as video:
        converted, decoded = [], []
        to_rgb, timed = video._to_rgb, video._timed
        monkeypatch.setattr(video, '_to_rgb', lambda frame: converted.append(frame.pts) or to_rgb(frame))
        monkeypatch.setattr(video, '_timed', lambda *how: (decoded.append(now[0]) or now for now in timed(*how)))
        video.read([150, 151, 152, 153, 279], fps=30)
    assert len(converted) == 5
    assert len(decoded) <= 4 + 10 + 2  # from keyframes 150 and 270 on, not from 0


def test_a_frame_that_a_cut_took_away_is_found_out(tmp_path, write_video, read_number):
    """Where frames are left out, H.264 gives fewer than it should behind a cut in open groups of pictures."""
    params = {'bf': '8', 'x264-params': 'open-gop=1:b-adapt=0:scenecut=0:b-pyramid=normal'}
    source, path = write_video(tmp_path / 'a.mp4', 100, fps=25, gop=20, options=params), tmp_path / 'b.mkv'
    with av.open(source) as video, av.open(str(path), 'w') as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        packets = [packet for packet in video.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        start = keys[3]
        gap = packets[start].pts - max(packet.pts for packet in packets[:30]) - 9 * 512
        for number, packet in enumerate(packets):
            if number >= start:
                packet.pts, packet.dts = packet.pts - gap, packet.dts - gap
            elif number >= 30:
                continue
            packet.stream = stream
            output.mux(packet)
    with open_video(path) as video:
        streamed = [read_number(frame) for frame in video.stream(25)]
    for tick in range(28):  # up to the cut; what FFmpeg shows right behind it was never whole
        assert read_number(read_frames(path, [tick], 25)[0]) == streamed[tick]


def test_very_short_videos(tmp_path, write_video, read_number):
    path = write_video(tmp_path / 'one.mp4', 1)
    with open_video(path) as video:
        assert video.count(10) == 1
        assert read_number(video.read([0], 10)[0]) == 0
    with pytest.raises(DataError, match='ends before it should'):
        read_frames(path, [0, 5], fps=10)


def test_probe_tells_what_the_file_says(tmp_path, write_video):
    info = probe(write_video(tmp_path / 'a.mp4', 25, fps=25, size=(96, 64)))
    assert (info.num_frames, info.fps, info.duration_s) == (25, 25.0, 1.0)
    assert (info.height, info.width, info.rotation) == (64, 96, 0)


def test_truncated_mp4_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / 'cut.mp4')
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(DataError, match='cannot be opened'):
        probe(path)


def test_truncated_mkv_gives_the_frames_that_are_there(tmp_path, write_video, read_number):
    path = write_video(tmp_path / 'cut.mkv', 100, options={'bf': '0'})
    os.truncate(path, os.path.getsize(path) // 2)
    with open_video(path) as video:
        assert video.count(10) == 100  # the header still says so
        assert [read_number(frame) for frame in video.read([0, 10, 20], 10)] == [0, 10, 20]
    with pytest.raises(DataError, match='ends before it should'):
        read_frames(path, [0, 90], fps=10)


def test_damage_spoils_only_the_frames_predicted_from_it(tmp_path, write_video, read_number):
    path = write_video(tmp_path / 'damaged.mp4', 100, gop=50, options={'bf': '0', 'sc_threshold': '0'})
    content = bytearray(open(path, 'rb').read())
    start, end = content.index(b'mdat'), content.index(b'moov')
    damage = start + (end - start) // 4  # in the first half of the frames, before the keyframe in the middle
    content[damage : damage + 200] = b'\xff' * 200
    with open(path, 'wb') as file:
        file.write(content)
    assert [read_number(frame) for frame in read_frames(path, [1, 60], fps=10)] == [1, 60]
    with pytest.raises(DataError, match=r'is damaged \(at \d'):
        read_frames(path, [1, 49, 60], fps=10)


@pytest.mark.parametrize(
    'content, reason',
    [
        (b'', 'is empty'),
        (np.random.default_rng(0).bytes(3000), 'cannot be opened'),
        (b'<html><body>404 not found</body></html>' * 50, 'cannot be opened'),
        (b'#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.mp4\n#EXT-X-ENDLIST\n', 'cannot be opened'),
    ],
    ids=['nothing', 'noise', 'a page', 'a playlist'],
)
def test_what_is_no_video_is_refused_with_a_reason(tmp_path, content, reason):
    path = tmp_path / 'bad.mp4'
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        probe(path)
    assert '\n' not in str(error.value)


def test_a_playlist_cannot_reach_other_files(tmp_path, write_video):
    write_video(tmp_path / 'secret.mp4', 3)
    path = tmp_path / 'list.mp4'
    path.write_text("ffconcat version 1.0\nfile 'secret.mp4'\n")
    with pytest.raises(DataError):
        probe(path)


def test_missing_files_and_sound_alone_are_refused(tmp_path, write_video):
    (tmp_path / 'link.mp4').symlink_to(tmp_path / 'nowhere.mp4')
    with pytest.raises(DataError, match='cannot be read'):
        probe(tmp_path / 'link.mp4')
    with pytest.raises(DataError, match='is a folder without numbered pictures'):
        probe(tmp_path)
    with pytest.raises(DataError, match='is not a regular file'):
        probe('/dev/null')
    import av

    with av.open(str(tmp_path / 'sound.mp4'), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match='has no video stream'):
        probe(tmp_path / 'sound.mp4')


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mp4')
    with pytest.raises(DataError, match='is not a regular file'):
        probe(tmp_path / 'pipe.mp4')


def test_the_time_limit_ends_a_decode(tmp_path, write_video):
    path = write_video(tmp_path / 'a.mp4')
    with open_video(path, timeout_s=60) as video:
        video._reader.deadline = 0
        with pytest.raises(DataError, match=r'takes too long to decode \(more than 60 s\)'):
            video.read([30], 10)


def test_no_file_stays_open(tmp_path, write_video):
    good, bad = write_video(tmp_path / 'a.mp4'), tmp_path / 'bad.mp4'
    bad.write_bytes(np.random.default_rng(0).bytes(3000))
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(5):
        read_frames(good, [3], fps=10)
        next(iterate_frames(good))
        with pytest.raises(DataError):
            probe(bad)
    assert len(os.listdir('/proc/self/fd')) == before


def test_ffmpeg_stays_silent(tmp_path, write_video, capfd):
    path = write_video(tmp_path / 'cut.mkv', codec='mpeg4')
    capfd.readouterr()
    os.truncate(path, os.path.getsize(path) - 700)
    with pytest.raises(DataError):
        read_frames(path, [39], fps=10)
    assert capfd.readouterr() == ('', '')


def test_data_modules_do_not_import_jax():
    modules = 'augment batch clips dataset_manifest loader video.container video.decode workers sources.folder'.split()
    code = f'import sys, {", ".join("rvm_jax.data." + name for name in modules)}; sys.exit("jax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=os.getcwd()).returncode == 0

"""Files whose timestamps cannot be taken as they are: joined, cut, without times of showing, with pictures attached."""

import struct

import av
import numpy as np
import pytest

from rvm_jax.data.video import container, frame_table
from rvm_jax.data.video.container import is_cut_off, is_joined
from rvm_jax.data.video.decode import open_video, probe, read_frames
from rvm_jax.data.video.frame_table import _even, in_order, real_stamps, running_times
from rvm_jax.errors import DataError

B_FRAMES = {'options': {'bf': '2', 'b_strategy': '0', 'sc_threshold': '0'}}
MPEG2 = {'codec': 'mpeg2video', 'fps': 25, 'options': {'bf': '2', 'qscale': '2'}}


def numbers_of(path, read_number, fps=10):
    """The numbers on all frames, read in each way; AssertionError if the ways differ."""
    with open_video(path) as video:
        every = [read_number(frame) for frame in video.stream()]
        streamed = [read_number(frame) for frame in video.stream(fps)]
        count = video.count(fps)
        assert [read_number(frame) for frame in video.read(range(count), fps)] == streamed
    for tick in range(0, count, 7):
        with open_video(path) as video:
            assert read_number(video.read([tick], fps)[0]) == streamed[tick]
        with open_video(path) as video:
            assert read_number(next(video.stream(fps, tick))) == streamed[tick]
    return every, streamed


def packets_of(path):
    with av.open(str(path)) as container:
        return [
            (packet.pts, packet.dts, packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size
        ]


def test_no_frame_of_the_first_group_is_lost(tmp_path, write_video, read_number):
    path = write_video(tmp_path / 'a.ts', 60, gop=30, **B_FRAMES)
    assert numbers_of(path, read_number) == (list(range(60)), list(range(60)))


def test_a_stream_cut_inside_a_group_begins_with_a_picture(tmp_path, write_video, read_number):
    path = tmp_path / 'a.ts'
    write_video(path, 60, gop=30, **B_FRAMES)
    data, start = path.read_bytes(), packets_of(path)[8][2]
    path.write_bytes(data[: 188 * 3] + data[start:])
    assert numbers_of(path, read_number) == (list(range(30, 60)), list(range(30, 60)))


@pytest.mark.parametrize(
    'name, how', [('a.ts', {}), ('a.mpg', MPEG2), ('a.mkv', {}), ('a.avi', {'codec': 'mjpeg', 'pix_fmt': 'yuvj420p'})]
)
def test_time_runs_on_where_files_are_joined(tmp_path, write_video, read_number, name, how):
    path, fps = tmp_path / name, how.get('fps', 10)
    write_video(path, 40, **how)
    assert not is_joined(str(path))
    path.write_bytes(path.read_bytes() * 2)
    twice = list(range(40)) * 2
    assert numbers_of(path, read_number, fps) == (twice, twice)


def test_a_clock_that_begins_again_at_its_end_runs_on(tmp_path, write_video, read_number):
    path = tmp_path / 'a.ts'
    write_video(path, 40, first_ms=int(2**33 / 90) - 2000)  # the clock has 33 bits of a 90,000th of a second
    assert numbers_of(path, read_number) == (list(range(40)), list(range(40)))


@pytest.mark.parametrize('name', ['a.avi', 'a.wmv'])
@pytest.mark.parametrize('codec', ['libx264', 'mpeg4'])
def test_times_of_decoding_are_not_times_of_showing(tmp_path, write_video, read_number, name, codec):
    options = {'bf': '3'} if codec == 'libx264' else {'bf': '2', 'qscale': '1'}
    path = write_video(tmp_path / name, 50, codec=codec, options=options)
    assert numbers_of(path, read_number) == (list(range(50)), list(range(50)))


@pytest.mark.parametrize('times', ['decoding', 'showing'])
def test_matroska_that_holds_an_avi_is_read_as_one(tmp_path, write_video, read_number, times):
    how, path = {'codec': 'mpeg4', 'options': {'bf': '2', 'qscale': '1'}}, tmp_path / 'a.mkv'
    avi, mp4 = (write_video(tmp_path / name, 50, **how) for name in ('a.avi', 'a.mp4'))
    shown = [pts // 1024 for pts, *_ in packets_of(mp4)]
    header = struct.pack('<IiiHH4sIiiII', 40, 80, 64, 1, 24, b'XVID', 80 * 64 * 3, 0, 0, 0, 0)
    with av.open(avi) as source, av.open(str(path), 'w') as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.codec_context.codec_tag, stream.codec_context.extradata = '\0\0\0\0', header
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.dts = stream, number
            packet.pts = number if times == 'decoding' else shown[number] + 1
            container.mux(packet)
    names = b'V_MPEG4/ISO/ASP', b'V_MS/VFW/FOURCC'  # what mkvmerge writes, which Matroska then has the way AVI has it
    assert path.read_bytes().count(names[0]) == 1
    path.write_bytes(path.read_bytes().replace(*names))
    assert numbers_of(path, read_number) == (list(range(50)), list(range(50)))


def test_times_that_were_made_up_are_found_out(tmp_path, write_video, read_number):
    mp4, path = write_video(tmp_path / 'a.mp4', 50, **B_FRAMES), tmp_path / 'b.mp4'
    with av.open(mp4) as source, av.open(str(path), 'w') as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, number * 1024, number * 1024
            container.mux(packet)
    assert numbers_of(path, read_number) == (list(range(50)), list(range(50)))


def test_sound_that_is_longer_than_the_picture_does_not_count(tmp_path, write_video, read_number):
    for name in ('a.mkv', 'a.flv', 'a.mp4'):
        path = tmp_path / name
        write_video(path, 24, audio=5)
        path.write_bytes(path.read_bytes().replace(b'DURATION', b'XURATION'))
        assert numbers_of(path, read_number) == (list(range(24)), list(range(24)))
        assert probe(path).duration_s == pytest.approx(2.4)


def test_attached_pictures_are_no_video(tmp_path, write_video, read_number):
    source = write_video(tmp_path / 'a.mp4', 20)
    with av.open(source) as video, av.open(str(tmp_path / 'cover.mp4'), 'w') as container:
        cover = add_cover(container)
        stream = container.add_stream_from_template(video.streams.video[0])
        container.mux(picture(cover))
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    assert numbers_of(tmp_path / 'cover.mp4', read_number) == (list(range(20)), list(range(20)))
    with av.open(str(tmp_path / 'only.mp4'), 'w') as container:
        sound = container.add_stream('aac', rate=8000)
        container.mux(picture(add_cover(container)))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        samples.sample_rate = 8000
        container.mux(sound.encode(samples) + sound.encode())
    with pytest.raises(DataError, match='has no video, only a picture attached to it'):
        probe(tmp_path / 'only.mp4')


def add_cover(container):
    stream = container.add_stream('mjpeg', rate=1)
    stream.width, stream.height, stream.pix_fmt = 64, 64, 'yuvj420p'
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def picture(stream):
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format='rgb24')
    frame.pts = 0
    return stream.encode(frame) + stream.encode()


@pytest.mark.parametrize(
    'name, how', [('a.mkv', {}), ('a.avi', {'codec': 'mjpeg', 'pix_fmt': 'yuvj420p'}), ('a.wmv', {'codec': 'wmv2'})]
)
def test_a_file_that_was_cut_off_is_known(tmp_path, write_video, name, how):
    path = tmp_path / name
    write_video(path, 40, **how)
    data = path.read_bytes()
    assert not is_cut_off(str(path))
    path.write_bytes(data[: len(data) // 2])
    assert is_cut_off(str(path))


def test_a_table_is_made_once(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / 'a.ts', 30)
    with open_video(path) as video:
        first = video._times.table
    monkeypatch.setattr(frame_table, '_make', None)
    with open_video(path) as video:
        assert video._times.table is first


@pytest.mark.parametrize('codec', ['msmpeg4', 'wmv2'])
def test_flags_of_keyframes_that_are_wrong_are_found_out(tmp_path, write_video, read_number, codec):
    path = tmp_path / 'a.avi'
    write_video(path, 40, codec=codec, gop=12, options={'qscale': '2'})
    path.write_bytes(path.read_bytes().replace(b'idx1', b'JUNK'))  # without its index, every packet is a keyframe
    with av.open(str(path)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    assert numbers_of(path, read_number) == (list(range(40)), list(range(40)))
    for tick in range(40):
        with open_video(path) as video:
            video.count(10)  # FFmpeg now knows where the packets are, and can search
            assert read_number(video.read([tick], 10)[0]) == tick


def test_keyframes_at_one_place_are_told_apart(tmp_path, write_video, read_number):
    """A packet of ASF holds several frames, and some of them have the same size."""
    path = write_video(tmp_path / 'a.wmv', 200, codec='mpeg4', gop=2, options={'bf': '0', 'qmin': '20', 'qmax': '20'})
    with av.open(path) as container:
        keys = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.is_keyframe]
    assert len(set(keys)) < len(keys)
    for tick in range(0, 200, 3):
        assert read_number(read_frames(path, [tick], 10)[0]) == tick


def test_parts_of_an_edited_mp4_follow_each_other(tmp_path, write_video, read_number):
    path = tmp_path / 'a.mp4'
    write_video(path, 60, codec='mpeg4', options={'bf': '2', 'qscale': '2'})
    data = bytearray(path.read_bytes())
    place = data.index(b'elst') - 4
    second = int.from_bytes(data[data.index(b'mdhd') + 16 :][:4])  # ticks of the track
    rows = [(1000, 3 * second, 1 << 16), (1000, second, 1 << 16)]
    table = struct.pack('>I4sII', 40, b'elst', 0, 2) + b''.join(struct.pack('>IiI', *row) for row in rows)
    data[place : place + 28] = table
    for name in (b'moov', b'trak', b'edts'):
        start = data.index(name) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4]) + 12).to_bytes(4)
    path.write_bytes(data)
    every, streamed = numbers_of(path, read_number)
    assert every == [*range(29, 39), *range(9, 19)]
    for tick, number in enumerate(streamed):
        assert read_number(read_frames(path, [tick], 10)[0]) == number


def test_frames_before_the_first_keyframe_do_not_count(tmp_path, write_video, read_number):
    source = write_video(tmp_path / 'a.mp4', 40, codec='mpeg4', options={'bf': '0', 'qscale': '2'})
    path = tmp_path / 'b.mp4'
    with av.open(source) as video, av.open(str(path), 'w') as container:
        stream = container.add_stream_from_template(video.streams.video[0])
        for packet in [packet for packet in video.demux(video=0) if packet.size][6:]:
            packet.stream = stream
            container.mux(packet)
    assert numbers_of(path, read_number) == (list(range(12, 40)), list(range(12, 40)))


@pytest.mark.parametrize(
    'stamps, longest, times',
    [
        ([5, 6, 7, 9], 10, [0, 1, 2, 4]),
        ([5, 6, 7, 0, 1], 10, [0, 1, 2, 3, 4]),
        ([5, 6, 7, 1000, 1001], 10, [0, 1, 2, 3, 4]),
        ([5, 6, 7, 1000], 1e9, [0, 1, 2, 995]),
        ([None, 5, None, 7, None], 10, [0, 1, 2, 3, 4]),
        ([3], 10, [0]),
    ],
)
def test_times_of_pictures_in_their_order(stamps, longest, times):
    np.testing.assert_allclose(running_times(stamps, 1.0, longest), times)


@pytest.mark.parametrize(
    'stamps, back, ordered, starts',
    [
        ([0, 3, 1, 2, 6, 5], 3, [0, 1, 2, 3, 5, 6], []),
        ([0, None, 2, 1], 3, [0, None, 1, 2], []),
        ([4, 5, 7, 0, 2, 1], 3, [4, 5, 7, 0, 1, 2], [3]),
        ([4, 5, 50, 51], 3, [4, 5, 50, 51], [2]),
        ([4, 4, 3], 0, [4, 4, 3], [2]),
    ],
)
def test_small_steps_back_are_no_new_clock(stamps, back, ordered, starts):
    assert in_order(stamps, back, 10) == (ordered, starts)


def test_times_that_ffmpeg_makes_up_at_a_seam_are_made_even():
    at_s = np.arange(30) / 25
    first_s = np.append(at_s[:-1], at_s[-1] + 2 / 25)
    times_s = np.concatenate([first_s, first_s[-1] + 1 / 25 + at_s])
    np.testing.assert_allclose(_even(times_s, [30], 25), np.arange(60) / 25)
    np.testing.assert_allclose(_even(at_s * 3, [], 25), at_s * 3)


def test_the_second_of_two_joined_files_is_read_at_once(tmp_path, write_video, read_number):
    paths = [write_video(tmp_path / f'{count}.mkv', count, fps=25, gop=25, **B_FRAMES) for count in (50, 70)]
    path = tmp_path / 'a.mkv'
    path.write_bytes(b''.join(open(name, 'rb').read() for name in paths))
    for tick in range(0, 120, 9):
        frame_table._tables.clear()  # the file is read through for the first time
        assert read_number(read_frames(path, [tick], 25)[0]) == (tick if tick < 50 else tick - 50)


def test_an_empty_packet_shows_the_same_picture_again(tmp_path, write_video, read_number, monkeypatch):
    """Theora has them, whose encoder is not here; NUT, which is read here for this alone, can hold them too."""
    monkeypatch.setitem(container.CONTAINERS, 'format_whitelist', 'avi,nut')
    source, path = write_video(tmp_path / 'a.avi', 20, codec='mjpeg', pix_fmt='yuvj420p'), tmp_path / 'a.nut'
    with av.open(source) as video, av.open(str(path), 'w') as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for number, packet in enumerate(packet for packet in video.demux(video=0) if packet.size):
            if number in (5, 9):
                empty = av.Packet(b'')
                empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
                packet = empty
            packet.stream = stream
            output.mux(packet)
    with open_video(path) as video:
        expected = [4 if tick == 5 else 8 if tick == 9 else tick for tick in range(20)]
        assert [read_number(frame) for frame in video.read(range(20), 10)] == expected


def test_a_stream_begins_after_what_is_predicted_from_damage(tmp_path, write_video, read_number):
    path = tmp_path / 'a.avi'
    write_video(path, 40, codec='mpeg4', options={'bf': '0', 'qscale': '2'})
    first, second = (place for _, _, place, _ in packets_of(path)[:2])
    data = bytearray(path.read_bytes())
    data[(first + second) // 2 : second - 20] = bytes(second - 20 - (first + second) // 2)
    path.write_bytes(data)
    assert numbers_of(path, read_number) == (list(range(12, 40)), list(range(12, 40)))


@pytest.mark.parametrize('frames', [2, 46])
def test_the_end_is_known_of_a_file_without_a_rate(tmp_path, write_video, read_number, frames):
    path = write_video(tmp_path / 'a.wmv', frames, codec='mpeg4', fps=25, options={'bf': '2', 'qscale': '1'})
    with av.open(path) as container:
        assert not container.streams.video[0].average_rate
    assert numbers_of(path, read_number, 25) == (list(range(frames)), list(range(frames)))
    numbers_of(path, read_number, 7)  # the last tick lies between two frames


@pytest.mark.parametrize('name, codec', [('a.ts', 'libx264'), ('a.flv', 'libx264'), ('a.ts', 'mpeg4')])
def test_times_that_a_copy_made_up_are_found_out(tmp_path, write_video, read_number, name, codec):
    """What FFmpeg's program makes of a file with times of decoding alone, for a format that states both."""
    options = B_FRAMES['options'] if codec == 'libx264' else {'bf': '2', 'qscale': '1'}
    source, path = write_video(tmp_path / 'a.avi', 50, codec=codec, options=options), tmp_path / name
    with av.open(source) as video, av.open(str(path), 'w') as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for number, packet in enumerate(packet for packet in video.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, number, number
            output.mux(packet)
    assert numbers_of(path, read_number) == (list(range(50)), list(range(50)))


def test_many_steps_back_are_no_new_clocks():
    made_up, mixed = list(range(12)), [0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12]
    assert real_stamps(mixed, made_up) == made_up
    few, many = [0, 3, 2, 5, 4, *range(6, 13)], [0, 3, 2, 5, 4, 7, 6, *range(8, 13)]
    assert real_stamps(mixed, few) == few
    assert real_stamps(mixed, many) == mixed  # times of decoding that go back tell nothing


def test_a_video_cut_in_the_order_of_decoding_has_its_end(tmp_path, write_video, read_number):
    source, path = (
        write_video(tmp_path / 'a.mp4', 40, fps=25, options={'bf': '3', 'b_strategy': '0'}),
        tmp_path / 'b.mp4',
    )
    with av.open(source) as video, av.open(str(path), 'w') as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for packet in [packet for packet in video.demux(video=0) if packet.size][:-2]:
            packet.stream = stream
            output.mux(packet)
    every, streamed = numbers_of(path, read_number, 25)
    assert len(every) == 38 and every[-1] == 39
    assert len(streamed) == 40


def test_nothing_for_a_while_is_not_the_end(tmp_path, write_video, read_number):
    path = tmp_path / 'a.ts'
    write_video(path, 40, **B_FRAMES)
    path.write_bytes(path.read_bytes() + bytes(100_000))
    assert numbers_of(path, read_number) == (list(range(40)), list(range(40)))


def test_frames_behind_a_lost_one_are_not_taken_for_earlier_ones(tmp_path, write_video, read_number):
    """AVI has no times: its frames are counted."""
    path = tmp_path / 'a.avi'
    write_video(path, 40, codec='mjpeg', pix_fmt='yuvj420p')
    data, place = bytearray(path.read_bytes()), packets_of(path)[20][2]
    data[place - 8 : place] = bytes(8)
    path.write_bytes(data)
    assert read_number(read_frames(path, [30], 10)[0]) == 30
    with open_video(path) as video:
        frames = video.stream()
        assert [read_number(next(frames)) for _ in range(20)] == list(range(20))
        with pytest.raises(DataError, match='the frames before this one are not all there'):
            next(frames)

"""Videos that somebody made to do harm, or that damage made so: used or refused in a line, in little memory."""

import itertools
import os
import socket
import struct
import threading
import zlib

import av
import numpy as np
import pytest

from rvm_jax.data.video.decode import open_video
from rvm_jax.errors import DataError

KINDS = {  # name: codec, format of pixels, options of the container
    'a.mp4': ('libx264', 'yuv420p', {}),
    'fragments.mp4': ('libx264', 'yuv420p', {'movflags': 'frag_keyframe+empty_moov'}),
    'b.mkv': ('libx264', 'yuv420p', {}),
    'c.webm': ('libvpx-vp9', 'yuv420p', {}),
    'd.avi': ('mpeg4', 'yuv420p', {}),
    'e.gif': ('gif', 'pal8', {}),
    'f.mov': ('mjpeg', 'yuvj420p', {}),
    'g.ts': ('mpeg2video', 'yuv420p', {}),
    'h.flv': ('flv', 'yuv420p', {}),
}
SIDE = (64, 48)
YEAR_S = 365 * 24 * 3600


def read(path):
    """What training, `rvm prepare`, `rvm features` and `rvm info` do with a file."""
    from rvm_jax.data.video.decode import open_video
    from rvm_jax.inference import video_frames

    with open_video(path, timeout_s=10) as video:
        count = video.count(10)
        assert video.info().height > 0
        video.read([0, count // 2, count - 1], 10)
    with open_video(path, timeout_s=10) as video:
        for _ in itertools.islice(video.stream(10, 0, 32), 50):
            pass
    for _ in itertools.islice(video_frames(path, short_side=128, patch_size=16), 20):
        pass


def write(path, codec='libx264', pixels='yuv420p', options=None, times=range(12)):
    """A small video whose frames are shown at these tenths of a second."""
    rng = np.random.default_rng(0)
    with av.open(str(path), 'w', options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        (stream.width, stream.height), stream.pix_fmt = SIDE, pixels
        stream.codec_context.gop_size = 4
        for i, time in enumerate(times):
            image = np.full((SIDE[1], SIDE[0], 3), 20 * i, np.uint8)
            image[:8] = rng.integers(0, 256, (8, SIDE[0], 3))
            frame = av.VideoFrame.from_ndarray(image, format='rgb24').reformat(
                format='rgb8' if codec == 'gif' else pixels
            )
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope='module')
def valid(tmp_path_factory):
    """{name: bytes} of a small video of each kind."""
    folder = tmp_path_factory.mktemp('valid')
    return {
        name: write(folder / name, codec, 'rgb8' if codec == 'gif' else pixels, options).read_bytes()
        for name, (codec, pixels, options) in KINDS.items()
    }


def write_mutants(guard, folder, valid, count):
    (folder / 'mutants').mkdir()
    for name, data in valid.items():
        for i, (_, damaged) in enumerate(guard.mutants(data, count, seed=name)):
            (folder / 'mutants' / f'{i:05}_{name}').write_bytes(damaged)
    for name, data in valid.items():
        (folder / name).write_bytes(data)
    return sorted((folder / 'mutants').iterdir()), [folder / name for name in valid]


def check_mutants(guard, guarded, folder, valid, count):
    files, sound = write_mutants(guard, folder, valid, count)
    outcomes = guarded(read, files, first=sound, seconds=60)
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count('used') > count and kinds.count('refused') > count  # a pass that damages all, or none, is none


def test_damaged_videos_are_used_or_refused(guard, guarded, tmp_path, valid):
    check_mutants(guard, guarded, tmp_path, valid, 8)


@pytest.mark.slow
def test_thousands_of_damaged_videos_are_used_or_refused(guard, guarded, tmp_path, valid):
    check_mutants(guard, guarded, tmp_path, valid, 400)


def with_number(data, box, place, number, width=4):
    """An MP4 with a number so many bytes after the name of its first box of a kind replaced."""
    start = data.index(box.encode()) + 4 + place
    return data[:start] + number.to_bytes(width, 'big') + data[start + width :]


def boxed(kind, content):
    return struct.pack('>I', len(content) + 8) + kind.encode() + content


def one_size(data, count):
    """All samples have one byte: count of them, in one chunk."""
    for box, place, number in (('stsz', 4, 1), ('stsz', 8, count), ('stsc', 12, count), ('stts', 8, count)):
        data = with_number(data, box, place, number)
    return data


def without_fields(data, count):
    """A fragment of samples that say nothing of themselves."""
    return with_number(with_number(data, 'trun', 0, 1), 'trun', 4, count)


def compressed(data, padding):
    start = data.index(b'moov') - 4
    (length,) = struct.unpack('>I', data[start : start + 4])
    header = boxed('moov', data[start + 8 : start + length] + boxed('free', bytes(padding)))
    packed = boxed('cmvd', struct.pack('>I', len(header)) + zlib.compress(header))
    return data[:start] + boxed('moov', boxed('cmov', boxed('dcom', b'zlib') + packed))


def edited(data, count):
    """Every edit shows the whole track."""
    start = data.index(b'edts') - 4
    (length,) = struct.unpack('>I', data[start : start + 4])
    entry = struct.pack('>IiHH', 1200, 0, 1, 0)
    edits = boxed('edts', boxed('elst', struct.pack('>II', 0, count) + count * entry))
    data = data[:start] + edits + data[start + length :]
    for box in ('moov', 'trak'):
        place = data.index(box.encode()) - 4
        size = int.from_bytes(data[place : place + 4], 'big') + len(edits) - length
        data = data[:place] + size.to_bytes(4, 'big') + data[place + 4 :]
    return data


def cut(data, count):
    """The table of sizes comes last, and is longer than what it is in; FFmpeg reads what is there."""
    data, start = one_size(data, count), data.index(b'stsz') - 4
    size, length = (int.from_bytes(data[place : place + 4], 'big') for place in (start, data.index(b'stco') - 4))
    sizes, chunks = data[start : start + size], data[start + size : start + size + length]
    return data[:start] + chunks + b'\x20\0\0\0' + sizes[4:] + data[start + size + length :]


def wrapped(data, count):
    """The header is in a box of references, into which FFmpeg looks as well."""
    data = one_size(data, count)
    start = data.index(b'moov') - 4
    return data[:start] + boxed('tref', data[start:])


def lies(valid):
    """{name: bytes} of headers that claim what is not there."""
    mp4, mkv, avi = valid['a.mp4'], valid['b.mkv'], valid['d.avi']
    duration = mkv.index(b'DURATION') + len(b'DURATION')
    digits = mkv.index(b'00:00:0', duration)
    return {
        'samples.mp4': one_size(mp4, 2**26),
        'most_samples.mp4': one_size(mp4, 2**31 - 1),
        'cut.mp4': cut(mp4, 2**26),
        'wrapped.mp4': wrapped(mp4, 2**26),
        'fragment.mp4': without_fields(valid['fragments.mp4'], 2**26),
        'compressed.mp4': compressed(mp4, 2**20),
        'edits.mp4': edited(mp4, 2**21),
        'duration.mp4': with_number(with_number(mp4, 'mdhd', 12, 1), 'mdhd', 16, 2**32 - 2),
        'chunks.mp4': with_number(mp4, 'stco', 4, 2**30 - 1),
        'wide.mp4': with_number(with_number(mp4, 'avc1', 24, 65535, 2), 'avc1', 26, 65535, 2),
        'tag.mkv': mkv[:digits] + b'99:99:9' + mkv[digits + 7 :],
        'letters.mkv': mkv.replace(b'Lavf', b'\xe9\xff\xfe\xe8'),
        'frames.avi': avi.replace(b'avih' + avi[avi.index(b'avih') + 4 :][:4], b'avih\xff\xff\xff\x7f', 1),
    }


def test_headers_that_lie_do_not_fill_the_memory(guarded, tmp_path, valid):
    (tmp_path / 'lies').mkdir()
    for name, data in lies(valid).items():
        (tmp_path / 'lies' / name).write_bytes(data)
    (tmp_path / 'sound.mp4').write_bytes(valid['a.mp4'])
    write_narrow(tmp_path / 'lies' / 'narrow.mkv')
    write(tmp_path / 'lies' / 'years.mkv', times=[0, 1, 2, 10 * YEAR_S])
    files = sorted((tmp_path / 'lies').iterdir())
    outcomes = guarded(read, files, first=[tmp_path / 'sound.mp4'], memory=150 * 2**20)
    reasons = {os.path.basename(outcome.file): outcome.text for outcome in outcomes}
    assert reasons['letters.mkv'] == ''  # titles are in any encoding, and no reason to leave a video out
    for name, reason in {
        'samples.mp4': 'declares 67,108,864 frames',
        'most_samples.mp4': 'declares 2,147,483,647 frames',
        'cut.mp4': 'declares 67,108,864 frames',
        'wrapped.mp4': 'declares 67,108,864 frames',
        'fragment.mp4': 'declares 67,108,864 frames',
        'compressed.mp4': 'compressed header',
        'edits.mp4': 'declares 25,165,824 frames',
        'years.mkv': 'no video is longer than 48 hours',
        'narrow.mkv': 'more than 64 million',
    }.items():
        assert reason in reasons[name], reasons[name]


def write_narrow(path):
    """One row of pixels, which features at 128 rows would make 500 million."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=10)
        stream.width, stream.height, stream.pix_fmt = 32_000, 1, 'gray'
        frame = av.VideoFrame(32_000, 1, 'gray')
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def playlists(victim, url):
    """{name: text} of what makes FFmpeg open other files, under the names of videos."""
    return {
        'hls.mp4': f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{victim}\n#EXT-X-ENDLIST\n',
        'hls_url.ts': f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}/a.ts\n#EXT-X-ENDLIST\n',
        'hls_concat.avi': f'#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nconcat:{victim}|{url}/\n#EXT-X-ENDLIST\n',
        'concat.mp4': f"ffconcat version 1.0\nfile '{victim}'\nduration 1\n",
        'concat_url.mkv': f"ffconcat version 1.0\nfile '{url}/a.mp4'\n",
        'session.mp4': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n'
        'a=rtpmap:96 H264/90000\n',
        'dash.mp4': '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        f'<AdaptationSet><Representation id="1" bandwidth="1" mimeType="video/mp4"><BaseURL>{url}/a.mp4</BaseURL>'
        '<SegmentBase indexRange="0-1"/></Representation></AdaptationSet></Period></MPD>',
        'redirect.webm': f'[Reference]\nRef1={url}/a.mp4\n',
        'stream.avi': f'#!RTSP\nrtsptext\nrtsp://{url.removeprefix("http://")}/a\n',
        'subtitles.mkv': f'WEBVTT\n\n00:00.000 --> 00:01.000\n<img src="{url}">\n',
        'image_list.mp4': f'{victim}\n{url}\n',
    }


def elsewhere(data, place, with_data):
    """An MP4 that says its frames are in another file, and, if not with_data, has none itself."""
    start = data.index(b'dref') - 4
    (length,) = struct.unpack('>I', data[start : start + 4])
    reference = boxed('dref', struct.pack('>II', 0, 1) + boxed('url ', bytes(4) + place.encode() + b'\0'))
    changed = data[:start] + reference + data[start + length :]
    for box in (b'moov', b'trak', b'mdia', b'minf', b'dinf'):
        begin = changed.index(box) - 4
        size = int.from_bytes(changed[begin : begin + 4], 'big') + len(reference) - length
        changed = changed[:begin] + size.to_bytes(4, 'big') + changed[begin + 4 :]
    begin = changed.index(b'mdat') + 4
    size = int.from_bytes(changed[begin - 8 : begin - 4], 'big') - 8
    return changed if with_data else changed[:begin] + bytes(size) + changed[begin + size :]


@pytest.fixture
def listener():
    """(address, list of who called) of a server on this machine that nobody may call."""
    calls = []
    with socket.create_server(('127.0.0.1', 0)) as server:

        def accept():
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                calls.append(peer)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f'http://127.0.0.1:{server.getsockname()[1]}', calls
        server.shutdown(socket.SHUT_RDWR)


def test_a_video_opens_no_other_file_and_no_address(guarded, tmp_path, valid, listener):
    url, calls = listener
    victim = tmp_path / 'victim.mp4'
    victim.write_bytes(valid['a.mp4'])
    folder = tmp_path / 'playlists'
    folder.mkdir()
    for name, text in playlists(victim, url).items():
        (folder / name).write_text(text)
    for number, place in enumerate([str(victim), 'file://' + str(victim), f'{url}/a.mp4']):
        (folder / f'reference_{number}.mp4').write_bytes(elsewhere(valid['a.mp4'], place, with_data=False))
    (folder / 'link_out.mp4').symlink_to('/etc/passwd')
    outcomes = guarded(read, sorted(folder.iterdir()), first=[victim], seconds=30)
    assert {outcome.kind for outcome in outcomes} == {'refused'}
    assert calls == []
    (tmp_path / 'own.mp4').write_bytes(elsewhere(valid['a.mp4'], f'{url}/a.mp4', with_data=True))
    [outcome] = guarded(read, [tmp_path / 'own.mp4'], first=[victim])
    assert outcome.kind == 'used' and calls == []


def test_what_is_no_file_is_never_opened(guarded, tmp_path, valid, monkeypatch):
    (tmp_path / 'sound.mp4').write_bytes(valid['a.mp4'])
    folder = tmp_path / 'odd'
    (folder / 'folder.mp4').mkdir(parents=True)
    os.mkfifo(folder / 'pipe.mp4')
    for name, target in {
        'zero': '/dev/zero',
        'tty': '/dev/tty',
        'self': 'self.mp4',
        'memory': '/proc/self/mem',
    }.items():
        (folder / f'{name}.mp4').symlink_to(target)
    (folder / 'pipe_link.mkv').symlink_to('pipe.mp4')
    monkeypatch.chdir(folder)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('socket.mp4')
        outcomes = guarded(read, sorted(folder.iterdir()), first=[tmp_path / 'sound.mp4'])
    assert {outcome.kind for outcome in outcomes} == {'refused'}


def test_a_clip_of_large_frames_is_refused_before_any_is_decoded(tmp_path):
    path = tmp_path / 'large.y4m'
    path.write_text('YUV4MPEG2 W8000 H8000 F10:1 C420\nFRAME\n')
    os.truncate(path, path.stat().st_size + 8000 * 8000 * 3 // 2)  # one black frame, which takes no room on the disk
    with open_video(path) as video, pytest.raises(DataError, match='for 64 frames of 8000 x 8000 pixels'):
        video.read(range(64), 10)

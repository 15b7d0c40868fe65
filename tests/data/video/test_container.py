import errno
import fractions
import json
import os
import struct
import subprocess
import sys
import zlib

import av
import pytest

from rvm_jax.data.video import container
from rvm_jax.data.video.decode import iterate_frames, open_video, probe, read_frames
from rvm_jax.errors import DataError

LARGE = 8192  # pixels of a side: 67 million in a frame

# Lets each read of a video fail in turn; the library preloaded looks at the environment each time.
FAIL_EACH_READ = """
import json, os, sys
from rvm_jax.data.video import mp4_tables
from rvm_jax.data.video.decode import open_video
from rvm_jax.errors import DataError

def attempt(path):
    mp4_tables._check.cache_clear()  # its reads may fail as well
    try:
        with open_video(path) as video:
            last = video.count(10) - 1
            video.read([last // 2, last // 2 + 1, last - 3], 10)
        return 'read'
    except OSError as error:
        return [error.errno, error.filename]
    except DataError as error:
        return error.reason

def reads():
    return os.path.getsize(os.environ['FAIL_COUNT'])

found = {}
for path in sys.argv[1:]:
    os.environ['FAIL_READ'] = '-1'
    first = attempt(path)
    before, again = reads(), attempt(path)
    needed = reads() - before
    outcomes = []
    for i in range(needed):
        os.environ['FAIL_READ'] = str(reads() + i)
        outcomes.append(attempt(path))
    found[path] = [first, again, *outcomes]
print(json.dumps(found))
"""


def test_a_failed_read_is_not_taken_for_the_end_or_for_damage(tmp_path, write_video, failing_reads):
    videos = [('a.mp4', {}), ('b.mkv', {}), ('c.ts', {}), ('d.avi', {'codec': 'mpeg4'}), ('e.flv', {})]
    paths = [write_video(tmp_path / name, 300, size=(320, 240), gop=2, **how) for name, how in videos]
    paths.append(write_video(tmp_path / 'no_duration.mkv', 300, size=(320, 240), gop=2, muxer={'live': '1'}))
    environment = failing_reads(str(tmp_path), code=errno.ESTALE, count=tmp_path / 'count')
    done = subprocess.run(
        [sys.executable, '-c', FAIL_EACH_READ, *paths], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    for path, (first, again, *outcomes) in json.loads(done.stdout).items():
        assert first == again == 'read'
        assert len(outcomes) >= 5
        assert all(outcome == [errno.ESTALE, path] for outcome in outcomes), outcomes


def test_a_disk_that_does_not_answer_is_not_a_missing_file(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / 'a.mp4', 3)

    def stat(path):
        raise OSError(errno.ETIMEDOUT, 'Connection timed out')

    monkeypatch.setattr(container.os, 'stat', stat)
    with pytest.raises(TimeoutError) as error:
        probe(path)
    assert error.value.filename == path


def test_a_file_that_may_not_be_read_is_skipped(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / 'a.mp4', 3)

    def refuse(*_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(container.os, 'read', refuse)
    with pytest.raises(DataError, match=r'cannot be opened as a video \(Permission denied\)'):
        probe(path)


def write_pictures(path, sizes):
    """A video of PNG pictures, of so many black pixels each side; its header has the size of the first."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('png', rate=10)
        stream.width = stream.height = sizes[0]
        stream.pix_fmt = 'gray'
        for i, size in enumerate(sizes):
            packet = av.Packet(png(size))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, fractions.Fraction(1, 10)
            packet.duration, packet.is_keyframe = 1, True
            file.mux(packet)


def png(size):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    deflate, row = zlib.compressobj(1), bytes(size + 1)
    pixels = b''.join(deflate.compress(row) for _ in range(size)) + deflate.flush()
    header = struct.pack('>IIBBBBB', size, size, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


def write_flash_video(path):
    """FLV, of which FFmpeg decodes the first frames to find out what they are."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=10, options={'preset': 'ultrafast', 'x264-params': 'threads=1'})
        stream.width, stream.height, stream.pix_fmt = LARGE, LARGE, 'yuv420p'
        file.mux(stream.encode(av.VideoFrame(LARGE, LARGE, 'yuv420p')))
        file.mux(stream.encode())


def memory_growth(code, path):
    """Bytes by which a fresh process that runs this code on a video grows at most, and what it prints."""
    code = f"""
import resource, sys
from rvm_jax.data.video.decode import *
from rvm_jax.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {code}
except DataError as error:
    print(error.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True)
    *printed, growth = done.stdout.splitlines()
    return int(growth), '\n'.join(printed)


IMPOSSIBLE = 'a frame is not valid, or has more than 64 million pixels'


def test_frames_too_large_for_memory_are_refused_early(tmp_path):
    write_pictures(tmp_path / 'large.mov', [LARGE] * 2)
    write_pictures(tmp_path / 'large.avi', [LARGE] * 2)
    write_pictures(tmp_path / 'grows.mov', [64, 64, LARGE])
    write_flash_video(tmp_path / 'large.flv')
    (tmp_path / 'claims.y4m').write_text(f'YUV4MPEG2 W{LARGE} H{LARGE} F10:1 C420\nFRAME\n')
    claims = f'has frames of {LARGE} x {LARGE} pixels, more than 64 million'
    expected = {
        'large.mov': f'is damaged (at 0.00 s: {IMPOSSIBLE})',
        'large.avi': f'is damaged (at 0.00 s: {IMPOSSIBLE})',
        'grows.mov': f'is damaged (at 0.20 s: {IMPOSSIBLE})',
        'large.flv': claims,
        'claims.y4m': claims,
    }
    for name, reason in expected.items():
        growth, found = memory_growth('list(iterate_frames(sys.argv[1]))', tmp_path / name)
        assert found == reason
        assert growth < 30e6  # a frame has 67 MB in gray, 201 in color


def test_frames_before_one_that_is_too_large_can_be_used(tmp_path):
    write_pictures(tmp_path / 'grows.mov', [64] * 5 + [LARGE])
    assert read_frames(tmp_path / 'grows.mov', [0, 3], 10).shape == (2, 64, 64, 3)
    with pytest.raises(DataError, match='more than 64 million'):
        read_frames(tmp_path / 'grows.mov', [0, 5], 10)


def test_a_container_of_another_kind_is_said_to_be_one(tmp_path, write_video):
    path = write_video(tmp_path / 'a.nut', 3)
    with pytest.raises(DataError, match=r'cannot be opened as a video \(it is of a kind that is not read here\)'):
        probe(path)


def test_names_that_are_no_text_or_look_like_addresses_are_files(tmp_path, write_video):
    path = os.fsencode(write_video(tmp_path / 'a.mp4', 3))
    for name in (b'\xff\xfe.mp4', b'pipe:0', b'http:%2f%2f127.0.0.1.mp4'):
        os.rename(path, path := os.path.join(os.fsencode(tmp_path), name))
        assert len(list(iterate_frames(os.fsdecode(path)))) == 3


def test_the_time_limit_holds_while_packets_are_counted(tmp_path, write_video):
    path = write_video(tmp_path / 'no_duration.mkv', muxer={'live': '1'})
    with open_video(path, timeout_s=60) as video:
        video._reader.deadline = 0
        with pytest.raises(DataError, match=r'takes too long to decode \(more than 60 s\)'):
            video.count(10)

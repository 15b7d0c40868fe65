"""Honest files have many samples too; what lies is in tests/hostile/test_data_videos.py."""

import os
import random
import re
import struct

import av
import numpy as np
import pytest

from rvm_jax.data.video import mp4_tables
from rvm_jax.data.video.decode import probe
from rvm_jax.errors import DataError


def write_with_plain_sound(path, seconds, rate=48_000):
    with av.open(str(path), 'w') as container:
        video, sound = container.add_stream('mpeg4', rate=10), container.add_stream('pcm_s16le', rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, 'yuv420p'
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * i, np.uint8), format='rgb24')
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for i in range(seconds):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), format='s16', layout='mono')
            frame.sample_rate, frame.pts = rate, i * rate
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


def check(path):
    with open(path, 'rb') as file:
        mp4_tables.check_tables(path, file.fileno())


@pytest.fixture
def limit(monkeypatch):
    """limit(samples) for files of any size."""

    def set_limit(samples):
        monkeypatch.setattr(mp4_tables, 'MAX_SAMPLES', samples)
        monkeypatch.setattr(mp4_tables, 'FEW_SAMPLES', samples)
        mp4_tables._check.cache_clear()

    return set_limit


def declared(path):
    """The count that a refusal tells."""
    with pytest.raises(DataError) as error:
        check(path)
    return int(re.search('declares ([0-9,]+)', error.value.reason)[1].replace(',', ''))


def boxed(kind, content):
    return struct.pack('>I', len(content) + 8) + kind + content


def with_edits(data, edits, track=0):
    """An MP4 with these (milliseconds, first tick) as the edits of a track."""
    start = [match.start() - 4 for match in re.finditer(b'edts', data)][track]
    length = int.from_bytes(data[start : start + 4], 'big')
    rows = b''.join(struct.pack('>IiHH', duration, first, 1, 0) for duration, first in edits)
    box = boxed(b'edts', boxed(b'elst', struct.pack('>II', 0, len(edits)) + rows))
    changed = data[:start] + box + data[start + length :]
    for place in (data.index(b'moov') - 4, data.rindex(b'trak', 0, start) - 4):
        size = int.from_bytes(data[place : place + 4], 'big') + len(box) - length
        changed = changed[:place] + size.to_bytes(4, 'big') + changed[place + 4 :]
    return changed


def ticks_a_second(data, track=0):
    start = [match.start() for match in re.finditer(b'mdhd', data)][track] + 16
    return int.from_bytes(data[start : start + 4], 'big')


def test_uncompressed_sound_may_have_more_samples_than_a_video(tmp_path, limit):
    path = tmp_path / 'sound.mov'
    write_with_plain_sound(path, seconds=4)
    limit(1000)
    assert probe(path).height == 48


def test_names_of_tables_in_a_title_are_no_tables(tmp_path, write_video):
    path = tmp_path / 'title.mp4'
    write_video(path, 3)
    data = path.read_bytes()
    start = data.index(b'udta') + 20
    title = b'    stsz\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff'
    path.write_bytes(data[:start] + title + data[start + len(title) :])
    check(path)


def test_a_video_cut_into_pieces_counts_once_not_once_a_piece(tmp_path, write_video, limit):
    path = tmp_path / 'cut.mp4'
    data = open(write_video(path, 2400, gop=12), 'rb').read()
    scale = ticks_a_second(data)
    path.write_bytes(with_edits(data, [(12_000, 12 * i * scale) for i in range(20)]))
    limit(2 * 2400)
    check(path)
    path.write_bytes(with_edits(data, [(240_000, 0) for i in range(20)]))
    limit(0)
    assert declared(path) == 20 * 2400


def test_a_gap_in_what_an_mp4_shows_is_named(tmp_path, write_video):
    path = tmp_path / 'gap.mp4'
    data = open(write_video(path, 40), 'rb').read()
    late = with_edits(data, [(300, -1), (300, -1), (2000, 0), (0, -1)])  # only begins later
    path.write_bytes(late)
    check(path)
    for edits in ([(1000, 0), (500, -1), (1000, 20_000)], [(1000, 0), (500, -1)]):
        path.write_bytes(with_edits(data, edits))
        with pytest.raises(DataError, match='shows nothing for a while after it has begun'):
            check(path)


@pytest.mark.parametrize('gop, frames', [(12, 0), (30, 3), (400, 2)])
def test_the_count_is_never_below_what_ffmpeg_makes(tmp_path, write_video, limit, gop, frames):
    rng, path = random.Random(gop), tmp_path / 'edits.mp4'
    write_video(path, 300, gop=gop, options={'bf': str(frames)}, audio=30, size=(64, 48))
    data = path.read_bytes()
    limit(0)
    for trial in range(30):
        track, count = trial % 2, rng.choice([1, 2, 5, 30])
        end = 30 * ticks_a_second(data, track)
        kinds = [(1, rng.randrange(end)), (0, rng.randrange(end)), (rng.randrange(40_000), rng.randrange(-10, end))]
        edits = [rng.choice([*kinds, (1000, -1)]) for _ in range(count)]
        path.write_bytes(with_edits(data, edits, track))
        mp4_tables._check.cache_clear()
        with av.open(str(path)) as container:
            made = sum(len(stream.index_entries) for stream in container.streams)
        assert declared(path) >= made > 0


LIES = {  # kind of table: bytes after its name, and what is written there
    'ctts': [(16, 0xF800_0000), (16, 0x0700_0000)],
    'stts': [(12, 0), (16, 0), (16, 2**31), (8, 0), (8, 2**32 - 1)],
    'stss': [(8, 0), (8, 1), (16, 1), (16, 2**31), (12, 50)],
    'elst': [(8, 0), (8, 1), (8, 2**32 - 1), (4, 2**24)],
    'mvhd': [(16, 0), (16, 1), (16, 2**32 - 1)],
    'mdhd': [(16, 0), (16, 1), (16, 2**31)],
}


@pytest.mark.parametrize('kind, place, number', [(kind, *lie) for kind, lies in LIES.items() for lie in lies])
def test_nor_where_tables_lie_about_time(tmp_path, write_video, limit, kind, place, number):
    path = tmp_path / 'lie.mp4'
    data = open(write_video(path, 60, gop=6, options={'bf': '2'}, size=(64, 48)), 'rb').read()
    scale = ticks_a_second(data)
    limit(0)
    pieces = [(0, i * scale // 4) for i in range(20)]
    for edits in (pieces, [(1, 3 * scale)] * 20, [(6000, 0), (0, 5 * scale)], [(1, 2**30)] * 2):
        changed = with_edits(data, edits)
        start = changed.index(kind.encode()) + place
        path.write_bytes(changed[:start] + number.to_bytes(4, 'big') + changed[start + 4 :])
        mp4_tables._check.cache_clear()
        try:
            with av.open(str(path)) as container:
                made = len(container.streams[0].index_entries)
        except av.FFmpegError:
            continue
        assert declared(path) >= made


def test_a_file_may_not_declare_more_samples_than_it_has_bytes(tmp_path, write_video, monkeypatch):
    path = tmp_path / 'few.mp4'
    data = open(write_video(path, 3), 'rb').read()
    start = data.index(b'stsz') + 12
    monkeypatch.setattr(mp4_tables, 'FEW_SAMPLES', 100)
    for count, is_refused in ((len(data), False), (len(data) + 1, True)):
        path.write_bytes(data[:start] + count.to_bytes(4, 'big') + data[start + 4 :])
        mp4_tables._check.cache_clear()
        if is_refused:
            assert declared(path) == count
        else:
            check(path)


def test_two_days_of_picture_and_sound_may_be_declared(tmp_path, write_video):
    path = tmp_path / 'long.mp4'
    data = open(write_video(path, 3, audio=1), 'rb').read()
    places = [match.start() + 12 for match in re.finditer(b'stsz', data)]
    for place, rate in zip(places, (60, 48_000 // 1024 + 1), strict=True):
        data = data[:place] + (48 * 3600 * rate).to_bytes(4, 'big') + data[place + 4 :]
    path.write_bytes(data)
    with pytest.raises(DataError, match='declares 18,489,600 frames, more than 2,000,000'):
        check(path)
    os.truncate(path, 2**32)
    check(path)


def test_a_file_that_passed_is_checked_again_only_if_it_changed(tmp_path, write_video, monkeypatch):
    path, reads = tmp_path / 'a.mp4', []
    data = open(write_video(path, 3), 'rb').read()
    pread = os.pread
    monkeypatch.setattr(mp4_tables.os, 'pread', lambda *arguments: reads.append(arguments) or pread(*arguments))
    check(path)
    first = len(reads)
    check(path)
    assert len(reads) == first > 0
    start = data.index(b'stsz') + 12
    path.write_bytes(data[:start] + b'\x7f\xff\xff\xff' + data[start + 4 :])
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(DataError, match='declares 2,147,483,647 frames'):
            check(path)

"""Streamed, random and prepared reads of many kinds of video give the same frames, known by the numbers drawn on them.

Each file is made here: containers, codecs, B-frames, groups, rates, starts and sound, drawn by a fixed seed.
"""

import collections
import fractions
import random

import av
import numpy as np
import pytest

from rvm_jax.data.prepare.encode_video import Settings, prepare_video
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.video.decode import open_video
from rvm_jax.errors import DataError

SIZE = (160, 64)
X264, X265 = {'preset': 'ultrafast', 'crf': '12'}, {'preset': 'ultrafast', 'crf': '12', 'x265-params': 'log-level=none'}
FIXED = {'qmin': '2', 'qmax': '3'}
VP = {'deadline': 'realtime', 'cpu-used': '8', 'b': '2M'}
# Encoder: options, format of pixels, whether it makes B-frames when asked to.
CODECS = {
    'libx264': (X264, 'yuv420p', True),
    'libx265': (X265, 'yuv420p', True),
    'mpeg1video': (FIXED, 'yuv420p', True),
    'mpeg2video': (FIXED, 'yuv420p', True),
    'mpeg4': (FIXED, 'yuv420p', True),
    'msmpeg4': (FIXED, 'yuv420p', False),
    'wmv2': (FIXED, 'yuv420p', False),
    'flv': (FIXED, 'yuv420p', False),
    'mjpeg': (FIXED, 'yuvj420p', False),
    'prores_ks': ({}, 'yuv422p10le', False),
    'ffv1': ({}, 'yuv420p', False),
    'huffyuv': ({}, 'yuv422p', False),
    'libvpx': (VP, 'yuv420p', False),
    'libvpx-vp9': (VP, 'yuv420p', False),
    'libsvtav1': ({'preset': '12', 'crf': '20', 'svtav1-params': 'lp=1'}, 'yuv420p', False),
}
# End of the name: format, its codecs, codec of the sound, options of the container.
CONTAINERS = {
    'mp4': ('mp4', 'libx264 libx265 mpeg4 mpeg2video libvpx-vp9 libsvtav1', 'aac', {}),
    'fragments.mp4': ('mp4', 'libx264 libx265 mpeg4', 'aac', {'movflags': 'frag_keyframe+delay_moov'}),
    'mov': ('mov', 'libx264 mpeg4 mjpeg prores_ks', 'pcm_s16le', {}),
    '3gp': ('3gp', 'libx264 mpeg4', 'aac', {}),
    'mkv': ('matroska', 'libx264 libx265 mpeg1video mpeg2video mpeg4 msmpeg4 mjpeg ffv1 libvpx libsvtav1', 'aac', {}),
    'live.mkv': ('matroska', 'libx264 mpeg2video libvpx-vp9', 'aac', {'live': '1'}),
    'webm': ('webm', 'libvpx libvpx-vp9 libsvtav1', 'libopus', {}),
    'ts': ('mpegts', 'libx264 libx265 mpeg1video mpeg2video', 'aac', {}),
    'm2ts': ('mpegts', 'libx264 mpeg2video', 'aac', {'mpegts_m2ts_mode': '1'}),
    'mpg': ('mpeg', 'mpeg1video mpeg2video', 'mp2', {}),
    'vob': ('vob', 'mpeg2video', 'mp2', {}),
    'avi': ('avi', 'libx264 mpeg2video mpeg4 msmpeg4 wmv2 mjpeg ffv1 huffyuv', 'mp2', {}),
    'flv': ('flv', 'libx264 flv', 'aac', {}),
    'wmv': ('asf', 'libx264 mpeg4 msmpeg4 wmv2', 'wmav2', {}),
}
SOUNDS = ('none', 'short', 'long')
Kind = collections.namedtuple('Kind', 'name codec b_frames group fps first_s sound frames')


def kinds(count, seed):
    """So many kinds, every container in turn, each of its codecs in turn."""
    rng, turns = random.Random(seed), collections.Counter()
    found = []
    for number in range(count):
        name = list(CONTAINERS)[number % len(CONTAINERS)]
        codecs = CONTAINERS[name][1].split()
        codec = codecs[turns[name] % len(codecs)]
        turns[name] += 1
        starts = (0,) if name == 'avi' else (0, 0, 0.4, 5)  # AVI has no start
        lengths = (26, 40, 60) if name in ('ts', 'm2ts') else (1, 2, 3, 26, 40, 60)  # fewer are not known for TS
        rates = (25, 30) if codec.startswith('mpeg') and codec != 'mpeg4' else (10, 25, fractions.Fraction(30000, 1001))
        found.append(
            Kind(
                name, codec, rng.choice((0, 1, 2, 3)) if CODECS[codec][2] else 0, rng.choice((1, 5, 12, 30, 250)),
                rng.choice(rates), rng.choice(starts), rng.choice(SOUNDS), rng.choice(lengths),
            )
        )  # fmt: skip
    return found


def write(path, kind, draw):
    """Encode numbered frames as a kind says."""
    container_format, _, sound_codec, muxer = CONTAINERS[kind.name]
    options, pixels, _ = CODECS[kind.codec]
    with av.open(str(path), 'w', format=container_format, options=muxer) as container:
        rate = fractions.Fraction(kind.fps)
        stream = container.add_stream(kind.codec, rate=rate, options={**options, 'bf': str(kind.b_frames)})
        (stream.width, stream.height), stream.pix_fmt = SIZE, pixels
        stream.codec_context.gop_size, stream.codec_context.time_base = kind.group, 1 / rate
        stream.codec_context.thread_count = 1
        sound = None if kind.sound == 'none' else container.add_stream(sound_codec, rate=48000, layout='stereo')
        if sound:
            sound.bit_rate = 64000
        first = round(kind.first_s * rate)
        packets = []
        for number in range(kind.frames):
            frame = av.VideoFrame.from_ndarray(draw(number, *SIZE), format='rgb24')
            frame.pts, frame.time_base = first + number, 1 / rate
            packets += stream.encode(frame)
        packets += stream.encode()
        seconds = kind.frames / kind.fps * (0.5 if kind.sound == 'short' else 1) + (kind.sound == 'long')
        packets += encode_sound(sound, seconds, kind.first_s) if sound else []
        packets.sort(key=lambda p: float((p.dts if p.dts is not None else p.pts or 0) * p.time_base))
        for packet in packets:
            container.mux(packet)


def encode_sound(stream, seconds, first_s):
    context, packets = stream.codec_context, []
    context.open()
    size = context.frame_size or 1024
    for number in range(int(float(seconds) * 48000 / size) + 1):
        samples = np.zeros((2, size), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='stereo')
        frame.sample_rate, frame.pts = 48000, int(first_s * 48000) + number * size
        frame.time_base = fractions.Fraction(1, 48000)
        packets += stream.encode(frame)
    return packets + stream.encode()


def check(folder, kind, draw, read_number):
    """'right', or why the file is refused. AssertionError if a frame is wrong."""
    path = folder / f'a.{kind.name}'
    write(path, kind, draw)
    fps, expected = float(kind.fps), list(range(kind.frames))
    try:
        with open_video(path) as video:
            assert [read_number(frame) for frame in video.stream()] == expected
            assert [read_number(frame) for frame in video.stream(fps)] == expected
            assert video.count(fps) == kind.frames
            assert [read_number(frame) for frame in video.read(expected, fps)] == expected
        for tick in random.Random(0).sample(expected, min(5, kind.frames)):
            with open_video(path) as video:
                assert read_number(video.read([tick], fps)[0]) == tick, tick
            with open_video(path) as video:
                assert read_number(next(video.stream(fps, tick))) == tick, tick
        assert prepared(folder, path, fps, read_number) == expected
    except DataError as error:
        return error.reason
    return 'right'


def prepared(folder, path, fps, read_number):
    shard = folder / 'train-00000.array_record'
    task = Task('a', str(path), None, None, 1, 2, 'train')
    found = prepare_video(task, Settings(fps=fps, short_side=0, min_frames=1), str(shard))
    [sequence] = found['sequences']
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(shard))
    blobs = reader.read(list(range(sequence['frames'])))
    reader.close()
    shard.unlink()
    from rvm_jax.data.video.lazy_frames import encoded

    return [read_number(frame) for frame in encoded('a', blobs).decode()]


def check_all(count, seed, folder, draw, read_number):
    outcomes = collections.defaultdict(collections.Counter)
    for number, kind in enumerate(kinds(count, seed)):
        here = folder / str(number)
        here.mkdir()
        try:
            outcome = check(here, kind, draw, read_number)
        except AssertionError as error:
            raise AssertionError(f'{kind}: {error}') from error
        outcomes[f'{kind.name:14} {kind.codec}'][outcome] += 1
    for what, counts in sorted(outcomes.items()):
        print(f'{what:28}', ', '.join(f'{outcome} {number}' for outcome, number in counts.items()))
    return outcomes


def test_40_kinds_of_video_give_the_frames_asked_for(tmp_path, draw_number, read_number):
    outcomes = check_all(42, 1, tmp_path, draw_number, read_number)
    assert set().union(*outcomes.values()) == {'right'}


@pytest.mark.slow
def test_every_kind_of_video_gives_the_frames_asked_for(tmp_path, draw_number, read_number):
    outcomes = check_all(406, 2, tmp_path, draw_number, read_number)
    assert set().union(*outcomes.values()) == {'right'}

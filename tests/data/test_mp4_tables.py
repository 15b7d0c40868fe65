"""Honest files have many samples too; what lies is in tests/hostile/test_data_videos.py."""

import av
import numpy as np

from rvm_jax.data import mp4_tables
from rvm_jax.data.video import probe


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


def test_plain_sound_has_more_samples_than_any_video_and_is_no_lie(tmp_path):
    path = tmp_path / 'sound.mov'
    write_with_plain_sound(path, seconds=mp4_tables.MAX_SAMPLES // 48_000 + 2)
    assert probe(path).height == 48


def test_names_of_tables_in_a_title_are_no_tables(tmp_path, write_video):
    path = tmp_path / 'title.mp4'
    write_video(path, 3)
    data = path.read_bytes()
    start = data.index(b'udta') + 20
    title = b'    stsz\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff'
    path.write_bytes(data[:start] + title + data[start + len(title) :])
    with open(path, 'rb') as file:
        mp4_tables.check_tables(path, file.fileno())

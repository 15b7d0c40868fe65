"""Clips a second that one core decodes from video files: rvm_jax.data against plain PyAV.

    python benchmarks/decode.py [--clips 30]

A clip is 4 source frames in a row and 4 targets 4 to 48 frames after them, in a window of 64 that starts anywhere in a
300-frame video. Both plain ways also end with 8 RGB frames: `window` seeks to the window and turns all its 64 frames
into RGB, `video` does so with the whole file. Times are CPU times of this process with one decoding thread.
"""

import argparse
import os
import tempfile
import time

import av
import cv2
import numpy as np

from rvm_jax.data.clips import choose_clip
from rvm_jax.data.video import open_video

NUM_FRAMES, FPS = 300, 30
CLIP = {'num_source': 4, 'num_target': 4, 'clip_frames': 64, 'min_gap': 4, 'max_gap': 48}
FILES = [((340, 256), 250), ((340, 256), 32), ((1280, 720), 250)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=30)
    num_clips = parser.parse_args().clips
    print(f'{"file":>22} {"Mbit/s":>7} {"ours":>8} {"window":>8} {"video":>8}  ours / window, ours / video')
    with tempfile.TemporaryDirectory() as folder:
        for size, gop in FILES:
            path = write_video(folder, size, gop)
            clips = draw_clips(num_clips)
            rates = [clips_per_second(read, path, clips) for read in (read_ours, read_window, read_video)]
            megabits = os.path.getsize(path) * 8e-6 / (NUM_FRAMES / FPS)
            name = f'{size[0]}x{size[1]} GOP {gop}'
            ours, window, video = rates
            print(f'{name:>22} {megabits:7.2f} {ours:8.1f} {window:8.1f} {video:8.1f}', end='')
            print(f'  {ours / window:.1f}x, {ours / video:.1f}x')


def write_video(folder, size, gop):
    """A smooth texture that drifts and turns under a little noise, as a camera sees it."""
    width, height = size
    rng = np.random.default_rng(0)
    texture = cv2.resize(
        rng.integers(0, 256, (24, 32, 3), np.uint8), (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC
    )
    path = f'{folder}/{width}x{height}_{gop}.mp4'
    with av.open(path, 'w') as container:
        stream = container.add_stream('libx264', rate=FPS, options={'preset': 'veryfast', 'crf': '23'})
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        stream.codec_context.gop_size = gop
        for i in range(NUM_FRAMES):
            move = cv2.getRotationMatrix2D((width, height), i * 0.3, 1.0)
            move[:, 2] -= (width / 2 - 0.4 * i, height / 2)
            image = cv2.warpAffine(texture, move, size)
            noise = rng.normal(0, 3, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
            image = np.clip(image[: noise.shape[0], : noise.shape[1]] + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())
    return path


def draw_clips(num_clips):
    rng = np.random.default_rng(1)
    return [choose_clip(rng, NUM_FRAMES, **CLIP, source_start='first', delta_from='first') for _ in range(num_clips)]


def read_ours(path, clip):
    with open_video(path) as video:
        video.count(FPS)
        return video.read(np.concatenate([clip.source, clip.target]), FPS)


def read_window(path, clip):
    with av.open(path) as container:
        stream = one_thread(container)
        container.seek(round(clip.start / FPS / stream.time_base), stream=stream)
        frames = {}
        for frame in container.decode(stream):
            number = round(frame.time * FPS)
            if number >= clip.start:
                frames[number] = frame.to_ndarray(format='rgb24')
            if number >= clip.start + CLIP['clip_frames'] - 1:
                break
    return np.stack([frames[i] for i in [*clip.source, *clip.target]])


def read_video(path, clip):
    with av.open(path) as container:
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(one_thread(container))]
    return np.stack([frames[i] for i in [*clip.source, *clip.target]])


def one_thread(container):
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


def clips_per_second(read, path, clips):
    expected = read_video(path, clips[0])
    np.testing.assert_array_equal(read(path, clips[0]), expected)
    start = time.process_time()
    for clip in clips:
        read(path, clip)
    return len(clips) / (time.process_time() - start)


if __name__ == '__main__':
    main()

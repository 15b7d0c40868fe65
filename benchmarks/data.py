"""Clips per second that one core makes from shards and from files; also of PyAV alone, torchcodec and a lower bound.

    python benchmarks/data.py [--videos FOLDER] [--clips 48] [--rounds 5] [--workers 1 2]

All methods make the same clips, and this is checked: 4 consecutive source frames and 4 targets 4 to 48 frames after
them, in a window of 64, cropped and resized to 256 pixels. The videos have 340 x 256 pixels, 25 frames per second and
12 seconds. They are rendered, with fine texture and noise, or they are those of FOLDER. Rates are clips per second of
CPU time, with one thread on one core; the methods take turns. `read` is what a clip reads from files, as the kernel
counts it. `stored` is the size of an hour of video.

Methods: `ours` is what a worker of the loader does, from the shards of `rvm prepare` and from files. `PyAV, whole clip`
seeks to the window and converts its 64 frames to RGB; 8 of them are then cropped and resized. `floor` is the lower
bound: libjpeg-turbo and one resize for the frames of the JPEG shards, which are in memory. It reads no files and draws
nothing at random.

The second table is the loader with worker processes: clips per second of wall time in the training process.
Linux only. torchcodec and simplejpeg are used if they are installed.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np

from rvm_jax.config import default
from rvm_jax.data.augment import crop_resize, draw_crop
from rvm_jax.data.clips import choose_clip
from rvm_jax.data.loader import SAMPLING, ClipMaker, Loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.open_data import open_source
from rvm_jax.data.video.decode import iterate_frames, open_video
from rvm_jax.data.video.lazy_frames import decoded
from rvm_jax.data.video.shard_codecs import QUALITY, encode_group
from rvm_jax.errors import DataError
from rvm_jax.synthetic.render import render
from rvm_jax.synthetic.scenes import random_scene

WIDTH, HEIGHT, FPS, NUM_FRAMES, CLIP_FRAMES = 340, 256, 25, 300, 64
DRAWN = 6  # rendered videos, if none are given
GOPS = 250, 32, 8
SHARDS = {
    'JPEG': ['--codec', 'jpeg'],
    'H.264 of 8': ['--codec', 'h264', '--group', '8'],
    'H.264 of 32': ['--codec', 'h264', '--group', '32'],
}
SEED = 0
BATCH = 32
SECONDS = 5.0  # how long each loader is measured
CHECKED = 12  # clips of each method that are compared with those of PyAV
SAME, LOSS = 4.0, 100.0  # squared differences of pixels: frames too similar to distinguish; the most from compression
DATA = default().data
DATA.fps = FPS


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to make clips: make(number of a clip) -> {frames_THWC, ...}; the folder that it reads, if any."""

    name: str
    make: Callable
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class OtherVideo:
    """A file for ClipMaker, read with another library: read(path, ticks) returns the frames of ticks."""

    name: Path
    num_frames: int
    read: Callable

    @contextlib.contextmanager
    def open(self, _timeout_s):
        """Itself; reading opens it."""
        yield self

    def count(self, _fps):
        """Its frames."""
        return self.num_frames

    def pictures(self, ticks, _fps):
        """The frames of these ticks, decoded."""
        return decoded(self.read(self.name, ticks))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--videos', help='folder of videos to use instead of rendered ones, of at least 64 frames each')
    parser.add_argument('--clips', type=int, default=48, help='clips per round (default: 48)')
    parser.add_argument('--rounds', type=int, default=5, help='rounds (default: 5)')
    parser.add_argument('--workers', type=int, nargs='*', default=[1, 2], help='worker processes (default: 1 2)')
    flags = parser.parse_args()
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_files(folder, flags.videos)
        write_shards(folder)
        os.sched_setaffinity(0, {max(cores)})
        cv2.setNumThreads(1)
        ways = list_ways(folder, flags.clips)
        check(ways, min(CHECKED, flags.clips))
        print_ways(ways, *measure(ways, flags.clips, flags.rounds), count_hours(folder))
        os.sched_setaffinity(0, cores)
        print_loaders(folder, flags.workers)


def write_files(folder, videos, gops=GOPS, num_drawn=DRAWN):
    """The same frames in a folder of files for each GOP; rendered videos are made in parallel on all cores."""
    for gop in gops:
        (folder / f'gop{gop}').mkdir()
    if videos:
        for number, frames_THWC in enumerate(read_videos(videos)):
            write_video(folder, gops, number, frames_THWC)
    else:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context('spawn')) as pool:
            list(pool.map(functools.partial(write_drawn, folder, gops), range(num_drawn)))


def write_drawn(folder, gops, number):
    write_video(folder, gops, number, draw_video(number))


def write_video(folder, gops, number, frames_THWC):
    for gop in gops:
        write_file(folder / f'gop{gop}' / f'{number:03}.mp4', frames_THWC, gop)


def draw_video(number):
    """Moving shapes over a fine texture that drifts, with noise: 0.3 Mbit/s, as in sports videos from the web."""
    rng = np.random.default_rng([SEED, number])
    frames_THWC = render(random_scene(rng, NUM_FRAMES, HEIGHT, WIDTH, wavelength=8.0))
    noise_THWC = rng.normal(0, 4, (NUM_FRAMES, HEIGHT, WIDTH, 1)).astype(np.float32)
    return np.clip(frames_THWC + noise_THWC, 0, 255).astype(np.uint8)


def read_videos(folder):
    """Yield the first 12 seconds of each video of a folder that has a clip's window, scaled to one size."""
    source = open_source(folder, 'train')
    for video in map(source.__getitem__, range(len(source))):
        try:
            frames = list(itertools.islice(iterate_frames(video.name, FPS), NUM_FRAMES))
        except DataError as error:
            print(f'left out: {error}')
            continue
        if len(frames) < CLIP_FRAMES:
            print(f'left out: {video.name}, {len(frames)} frames')
            continue
        yield np.stack([cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for frame in frames])


def write_file(path, frames_THWC, gop):
    """x264 with the defaults of ffmpeg."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=FPS, options={'preset': 'medium', 'crf': '23'})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.codec_context.gop_size = gop
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')))
        container.mux(stream.encode())


def write_shards(folder, names=tuple(SHARDS), gop=GOPS[0]):
    for name in names:
        where = ['--input', folder / f'gop{gop}', '--output', folder / name]
        command = [sys.executable, '-m', 'rvm_jax.prepare', *where, '--fps', str(FPS), '--val', '0', *SHARDS[name]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def count_hours(folder):
    return sum(map(count_frames, folder.glob(f'gop{GOPS[0]}/*.mp4'))) / FPS / 3600


def count_frames(path):
    with open_video(path) as video:
        return video.count(FPS)


def list_ways(folder, num_clips):
    """All methods. The clips of the others are compared with those of the first."""
    others = {'PyAV, whole clip': read_window}
    if is_torchcodec_there():
        others['torchcodec'] = read_torchcodec
    ways = []
    for gop in GOPS:
        files = folder / f'gop{gop}'
        paths = sorted(files.glob('*.mp4'))
        for name, read in others.items():
            videos = [OtherVideo(path, count_frames(path), read) for path in paths]
            ways.append(Way(f'files, GOP {gop}: {name}', clip_maker(videos), files))
        ways.append(Way(f'files, GOP {gop}: ours', clip_maker(open_source(str(files), 'train')), files))
    for name in SHARDS:
        ways.append(Way(f'shards, {name}: ours', clip_maker(open_source(str(folder / name), 'train')), folder / name))
    return [*ways, make_floor(sorted((folder / f'gop{GOPS[0]}').glob('*.mp4')), num_clips)]


def is_torchcodec_there():
    """Whether torchcodec can be used; if not, print why, and how to install it."""
    try:
        importlib.import_module('torchcodec.decoders')
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        print(f'no torchcodec ({reason}); pip install torch torchcodec, for the same device, and install FFmpeg')
        return False
    return True


def clip_maker(source):
    """What the loader's workers run, with the videos in turn: Grain is slow at shuffling very few."""
    order = functools.partial(turn, len(source))
    return ClipMaker(Mixture([Part(source, FPS)]), DATA, seed=SEED, order=order, is_training=True)


def turn(num_videos, sample):
    return sample % num_videos


def read_window(path, ticks):
    """The 64 frames of the clip's window, of which the ticks are kept."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(round(ticks[0] / FPS / stream.time_base), stream=stream)
        frames = {}
        for frame in container.decode(stream):
            number = round(frame.time * FPS)
            if number >= ticks[0]:
                frames[number] = frame.to_ndarray(format='rgb24', threads=1)
            if number >= ticks[0] + CLIP_FRAMES - 1:
                break
    return np.stack([frames[tick] for tick in ticks])


def read_torchcodec(path, ticks):
    """In its faster way of seeking, which trusts the file's header."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='approximate')
    return decoder.get_frames_at(ticks.tolist()).data.numpy()


def make_floor(paths, num_clips):
    """The Way that only decodes JPEGs in memory, each frame once, and crops, resizes and flips them as in the clips."""
    work = [draw_floor(paths, sample) for sample in range(num_clips)]
    if importlib.util.find_spec('simplejpeg'):
        from simplejpeg import decode_jpeg

        name = 'simplejpeg'
    else:
        name = 'cv2'

        def decode_jpeg(blob):
            return cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR_RGB)

    def make(sample):
        blobs, places, crop, is_flipped = work[sample]
        frames = [decode_jpeg(blob) for blob in blobs]
        out_THWC = np.empty((len(places), DATA.image_size, DATA.image_size, 3), np.uint8)
        for place, out_HWC in zip(places, out_THWC, strict=True):
            crop_resize(frames[place], crop, DATA.image_size, out_HWC)
            if is_flipped:
                cv2.flip(out_HWC, 1, dst=out_HWC)
        return {'frames_THWC': out_THWC}

    return Way(f'floor: {name}', make)


def draw_floor(paths, sample):
    """(JPEGs, which of them each frame of the clip is, crop, is flipped) of a clip, drawn as ClipMaker does."""
    rng = np.random.default_rng([SEED, sample, 0])
    with open_video(paths[turn(len(paths), sample)]) as video:
        clip = choose_clip(rng, video.count(FPS), **{name: DATA[name] for name in SAMPLING})
        ticks, places = np.unique(np.concatenate([clip.source, clip.target]), return_inverse=True)
        blobs = [encode_group([frame], 'jpeg', QUALITY['jpeg']) for frame in video.read(ticks, FPS)]
    is_flipped = rng.random() < DATA.flip
    return blobs, places, draw_crop(rng, HEIGHT, WIDTH, DATA.crop_area, DATA.crop_ratio), is_flipped


def check(ways, num_clips):
    """Stop if a frame of a method is not close to its frame of PyAV, or is closer to another one."""
    for sample in range(num_clips):
        expected_THWC = ways[0].make(sample)['frames_THWC'].astype(np.float32)
        for way in ways[1:]:
            for i, frame_HWC in enumerate(way.make(sample)['frames_THWC']):
                errors_T = ((expected_THWC - frame_HWC) ** 2).mean((1, 2, 3))
                if errors_T[i] > min(errors_T.min() + SAME, LOSS):
                    raise SystemExit(f'{way.name}: frame {i} of clip {sample} is another one: {errors_T}')


def measure(ways, num_clips, num_rounds):
    """(clips a CPU second in each round, bytes read a clip) of each way."""
    rates, sizes = [[] for _ in ways], []
    for _ in range(num_rounds):
        sizes.clear()
        for way, found in zip(ways, rates, strict=True):
            read, start = bytes_read(), time.process_time()
            for sample in range(num_clips):
                way.make(sample)
            found.append(num_clips / (time.process_time() - start))
            sizes.append((bytes_read() - read) / num_clips)
    return rates, sizes


def bytes_read():
    """Bytes that this process has read from files, also where the page cache had them."""
    with open('/proc/self/io') as file:
        return int(file.readline().removeprefix('rchar:'))


def print_ways(ways, rates, sizes, hours):
    best = {way.name: max(found) for way, found in zip(ways, rates, strict=True)}
    plain, floor = best[ways[0].name], best[ways[-1].name]
    print(f'\n{len(rates[0])} rounds, other load of the machine {os.getloadavg()[0]:.1f}')
    print(f'| {"way":40} | best, clips/s | median | x whole clip, GOP {GOPS[0]} | read, kB/clip | stored, GB/hour |')
    print('| --- | ---: | ---: | ---: | ---: | ---: |')
    for way, found, size in zip(ways, rates, sizes, strict=True):
        stored = sum(file.stat().st_size for file in way.folder.iterdir()) / hours / 1e9 if way.folder else None
        print(
            f'| {way.name:40} | {max(found):6.1f} | {statistics.median(found):6.1f} | {max(found) / plain:5.2f} | '
            + (f'{size / 1e3:6.0f} | {stored:5.2f} |' if way.folder else '| |')
        )
    ours = best[f'shards, {next(iter(SHARDS))}: ours']
    print(f'JPEG shards: {ours / plain:.1f} x PyAV (goal 8), floor / JPEG shards {floor / ours:.2f} (goal 1.5)')


def print_loaders(folder, workers):
    print(f'\n| loader, batches of {BATCH} | workers | clips/s | CPU of the training process, ms/clip |')
    print('| --- | ---: | ---: | ---: |')
    for name, num_workers in itertools.product([*SHARDS, f'gop{GOPS[0]}'], workers):
        rate, cpu = measure_loader(folder / name, num_workers)
        print(f'| {name} | {num_workers} | {rate:.1f} | {cpu * 1e3:.2f} |', flush=True)


def measure_loader(path, num_workers, batch=BATCH, seconds=SECONDS):
    """(clips a second of wall time, CPU seconds a clip of this process)."""
    data = DATA.copy_and_resolve_references()
    data.num_workers = num_workers
    clips = clip_maker(open_source(str(path), 'train'))
    with Loader(clips, data, batch, 0, range(batch)) as loader:
        for _ in range(4):  # more than is ready once the workers have started
            next(loader)
        num_batches, start, cpu = 0, time.monotonic(), time.process_time()
        while time.monotonic() - start < seconds:
            next(loader)
            num_batches += 1
        took, cpu = time.monotonic() - start, time.process_time() - cpu
    return batch * num_batches / took, cpu / (batch * num_batches)


if __name__ == '__main__':
    main()

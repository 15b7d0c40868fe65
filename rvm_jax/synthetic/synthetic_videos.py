"""Writes synthetic scenes as real MP4 files, each with a small file of its truth beside it."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from rvm_jax import signals
from rvm_jax.errors import UserError
from rvm_jax.storage.atomic import atomic_write
from rvm_jax.synthetic.render import Truth, render, truth
from rvm_jax.synthetic.scenes import CLASSES, random_scene

VERSION = 1  # raise it when the same settings begin to give other pictures
SETTINGS_FILE = 'settings.json'


def write_videos(
    folder: str | os.PathLike,
    num_videos: int,
    *,
    seed: int,
    prefix: str = 'clip',
    num_frames: int = 64,
    height: int = 64,
    width: int = 64,
    fps: float = 10,
    crf: int = 14,
    scene_options: dict[str, Any] | None = None,
    num_workers: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> list[Path]:
    """Render `folder`/`prefix`_00000.mp4 ... with their truth (`read_truth`) in .npz files of the same name.

    Video i is a pure function of (seed, i) and the other settings: for held-out videos take another seed. Motion
    classes take turns, so they are balanced. scene_options go to `random_scene`; crf is the H.264 quality, 0 (lossless)
    to 51. num_workers processes share the work (None: one per core; 0: none, this process does it all), and
    progress(done, total) is called after each video.

    Files appear whole or not at all. Videos that are there already, written by the same settings, are kept; if the
    settings differ, they are replaced. A folder with videos that are not ours raises UserError.
    Returns the paths of the videos.
    """
    folder = Path(folder)
    settings = {
        'seed': seed, 'num_frames': num_frames, 'height': height, 'width': width, 'fps': fps, 'crf': crf,
        'version': VERSION, 'scene_options': scene_options or {},
    }  # fmt: skip
    paths = [folder / f'{prefix}_{index:05d}.mp4' for index in range(num_videos)]
    _prepare_folder(folder, prefix, settings, paths)
    calls = [(path, index, settings) for index, path in enumerate(paths) if not _is_written(path)]
    for done, _ in enumerate(_each(_write_one, calls, num_workers), num_videos - len(calls) + 1):
        if progress is not None:
            progress(done, num_videos)
    return paths


def _is_written(path):
    return path.exists() and path.with_suffix('.npz').exists()


def write_video(path: str | os.PathLike, frames_THWC: np.ndarray, *, fps: float = 10, crf: int = 14) -> None:
    """Encode uint8 RGB frames as H.264 in an MP4 file, which appears under its name only when complete.

    Height and width must be even, because colors are stored at half resolution: UserError.
    """
    height, width = frames_THWC.shape[1:3]
    if height % 2 or width % 2:
        raise UserError(f'{height} x {width}', 'H.264 in yuv420p needs an even height and width', 'round them to even')
    with atomic_write(path) as partial, av.open(partial, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
        stream.codec_context.gop_size = 8  # clips begin anywhere, so a key frame must never be far
        # One thread, and none of x264's shortcuts for this very CPU: the same frames always give the same bytes.
        same_bytes = {'threads': '1', 'x264-params': 'cpu-independent=1'}
        stream.options = {'crf': str(crf), 'preset': 'veryfast', **same_bytes}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')))
        container.mux(stream.encode())


def read_truth(path: str | os.PathLike) -> Truth:
    """Read the Truth of a video from the .npz beside it."""
    with np.load(path, allow_pickle=False) as arrays:
        return Truth(**{field.name: arrays[field.name] for field in dataclasses.fields(Truth)})


def _write_one(path, index, settings):
    rng = np.random.default_rng((settings['seed'], index))
    options = {'motion_class': index % len(CLASSES), **settings['scene_options']}
    scene = random_scene(rng, settings['num_frames'], settings['height'], settings['width'], **options)
    # The truth goes first: a video that is there always has it.
    with atomic_write(path.with_suffix('.npz')) as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, **vars(truth(scene)))
    write_video(path, render(scene), fps=settings['fps'], crf=settings['crf'])


def _prepare_folder(folder, prefix, settings, paths):
    """Leave in `folder` only videos of these settings, out of `paths`, and a file that names the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings_path = folder / SETTINGS_FILE
    found = set(folder.glob(f'{prefix}_*.mp4'))
    if found and not settings_path.exists():
        raise UserError(folder, f'has videos but no {SETTINGS_FILE}: they are not synthetic', 'choose another folder')
    same = settings_path.exists() and json.loads(settings_path.read_text()) == json.loads(json.dumps(settings))
    for path in found - set(paths) if same else found:
        path.unlink()
        path.with_suffix('.npz').unlink(missing_ok=True)
    with atomic_write(settings_path) as partial, open(partial, 'w') as file:
        file.write(json.dumps(settings, indent=2) + '\n')


def _each(function, calls, num_workers):
    """Yield as each call finishes. Workers are spawned, as forking is unsafe once the process has threads."""
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    if num_workers == 0 or len(calls) <= 1:
        for arguments in calls:
            yield function(*arguments)
        return
    context = multiprocessing.get_context('spawn')
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, context, initializer=_start_worker)
    try:
        with _signals_held_back():  # workers start with the first call
            futures = [pool.submit(function, *arguments) for arguments in calls]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _signals_held_back():
    """Hold back what ends a run; processes started here never get it, even if it is sent to the whole group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.NAMES.keys())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker():
    """One thread for OpenCV; a worker ends with its parent, however that ends."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)

"""Features of a video of any length, frame by frame, in constant memory (RVM, section 3.2)."""

import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from rvm_jax.data.video import decode
from rvm_jax.data.video.frame_folder import RATE
from rvm_jax.data.video.lazy_frames import check_size
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage.atomic import atomic_write

CHUNK = 16  # frames encoded at once
PLACES, POSITION_FRAMES = 12, 8  # how often a clip is moved, and how much of it, to find what position adds
COPY_BLOCK = 1 << 20  # bytes


def working_size(height: int, width: int, *, short_side: int, patch_size: int) -> tuple[int, int]:
    """Pixels (height, width) of a frame resized to `short_side` with its aspect kept, before it is cut to patches.

    Raises UserError if that is smaller than a patch.
    """
    if short_side < patch_size:
        raise UserError(
            f'size {short_side}', f'a frame needs at least one patch of {patch_size} pixels', 'choose a larger size'
        )
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def fit(frame_HWC: np.ndarray, short_side: int, patch_size: int) -> np.ndarray:
    """Resize a uint8 frame to `short_side` pixels with its aspect kept, then cut both sides to whole patches.

    Lanczos, as in the RVM evaluations; the center is kept.
    """
    from PIL import Image

    height, width = working_size(*frame_HWC.shape[:2], short_side=short_side, patch_size=patch_size)
    resized = np.asarray(Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.LANCZOS))
    return cut(resized, height // patch_size * patch_size, width // patch_size * patch_size)


def cut(frames_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """The center of (..., H, W, C)."""
    top, left = (frames_HWC.shape[-3] - height) // 2, (frames_HWC.shape[-2] - width) // 2
    return frames_HWC[..., top : top + height, left : left + width, :]


def video_frames(
    path: str | os.PathLike, *, short_side: int, patch_size: int, fps: float | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a video as `fit` makes them: all of them, or fps per second.

    Raises DataError if the file cannot be decoded, changes its frame size, or has frames that would become too large.
    """
    shape = None
    for frame_HWC in decode.iterate_frames(path, fps):
        if frame_HWC.shape != (shape or frame_HWC.shape):
            raise DataError(path, 'changes its size between frames', 're-encode it')
        if shape is None:  # a frame with only two rows of pixels would become huge
            height, width = working_size(*frame_HWC.shape[:2], short_side=short_side, patch_size=patch_size)
            check_size(os.fspath(path), height, width)
        shape = frame_HWC.shape
        yield fit(frame_HWC, short_side, patch_size)


class VideoStream(NamedTuple):
    """Frames of a video as a model takes them."""

    frames: Iterator[np.ndarray]  # (H, W, 3) uint8, whole patches
    grid: tuple[int, int]  # patches of a frame, (h, w)
    fps: float  # frames per second; nan where every frame is taken and the file does not state its rate
    num_frames: int | None  # as the file states it


def open_stream(
    model: Any, path: str | os.PathLike, *, short_side: int | None = None, fps: float | str | None = None
) -> VideoStream:
    """The frames of a video (a file, or a folder of numbered pictures) for a model.

    short_side: pixels, by default those of the model's training. fps: frames per second, or 'all'. By default the
    rate of the model's training, and every frame where that is not known or the video has fewer, or says no times (a
    folder of frames). Raises DataError for a video that cannot be decoded, or whose rate is not known where fps is one.
    """
    info = decode.probe(path)
    if not info.has_times and isinstance(fps, float | int):
        reason = f'is a folder of frames without {RATE}, so that {fps:g} of them per second cannot be chosen'
        raise DataError(path, reason, 'write its frames per second there, or take every frame (all)')
    short_side = model.image_size if short_side is None else short_side
    rate = model.architecture.fps if fps is None else 0.0 if isinstance(fps, str) else fps
    if not info.has_times or (fps is None and info.fps and info.fps <= rate):
        rate = 0.0
    num_frames = math.ceil(info.duration_s * rate) if rate and info.duration_s else info.num_frames
    patch = model.patch_size
    height, width = working_size(info.height, info.width, short_side=short_side, patch_size=patch)
    frames = video_frames(path, short_side=short_side, patch_size=patch, fps=rate or None)
    return VideoStream(frames, (height // patch, width // patch), rate or info.fps or math.nan, num_frames)


def encode_stream(model: Any, frames: Iterable[np.ndarray], chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield features of frames as they arrive: float32 arrays (T, M, D) whose T add up to the number of frames.

    frames are uint8 HWC of one size. The last frames, fewer than a chunk, are encoded one by one, so that only two
    lengths are compiled. While the device works on one chunk, the next one is decoded. A model that does not stream
    sees windows with the number of frames of its training, one after the other; the last one may be shorter.
    """
    chunk = model.window or chunk
    frames, state, waiting = iter(frames), None, None
    while frames_of_chunk := list(islice(frames, chunk)):
        whole = len(frames_of_chunk) == chunk or model.window is not None
        for piece in [frames_of_chunk] if whole else [[frame] for frame in frames_of_chunk]:
            features_BTMD, state = model.encode(np.stack(piece)[None], state)
            if waiting is not None:
                yield np.asarray(waiting[0])
            waiting = features_BTMD
    if waiting is not None:
        yield np.asarray(waiting[0])


def patch_grid(features_TMD: np.ndarray, grid: tuple[int, int], num_prefix_tokens: int) -> np.ndarray:
    """Patch features as (T, h, w, D), without prefix tokens; grid is (h, w)."""
    return features_TMD[:, num_prefix_tokens:].reshape(len(features_TMD), *grid, features_TMD.shape[-1])


def video_grid(model: Any, frames: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Patch features (T, h, w, D) of frames, uint8 HWC, that the model reads one after the other; size is (H, W)."""
    features_TMD = np.concatenate(list(encode_stream(model, frames)))
    grid = size[0] // model.patch_size, size[1] // model.patch_size
    return patch_grid(features_TMD, grid, model.num_prefix_tokens)


def position_of(model: Any, frames_THWC: np.ndarray) -> np.ndarray:
    """What features owe to the place of a patch alone: (h, w, D), their mean over a clip that is moved around.

    The first frames of the clip are moved to PLACES random places, where what leaves the frame on one side comes in on
    the other: so each patch shows all parts of the picture alike. Our choice, for pictures of small models.
    """
    rng, moved = np.random.default_rng(0), frames_THWC[:POSITION_FRAMES]
    places = rng.integers(moved.shape[1:3], size=(PLACES, 2))
    size = moved.shape[1:3]
    grids = [video_grid(model, np.roll(moved, tuple(place), axis=(1, 2)), size).mean(0) for place in places]
    return np.mean(grids, axis=0)


def share_of_position(features_ThwD: np.ndarray, position_hwD: np.ndarray) -> float:
    """Fraction of the features' variance that their position explains, at most 1."""
    left = (features_ThwD - position_hwD).var((0, 1, 2)).sum()
    return max(0.0, 1 - float(left / features_ThwD.var((0, 1, 2)).sum()))


def write_features(
    path: str, chunks: Iterable[np.ndarray], *, grid: tuple[int, int], fps: float, made_with: str = ''
) -> int:
    """Write `features` (T, M, D) float32, `grid` (h, w), `fps` and `made_with` to an .npz; T is known when chunks end.

    Chunks first go to an unnamed temporary file in the same folder, so that T may be larger than memory; the folder
    needs space for both. The .npz appears complete or not at all. Returns T; raises ValueError if it is 0.
    """
    with tempfile.TemporaryFile(dir=os.path.dirname(path) or '.') as collected, atomic_write(path) as partial:
        num_frames, token_shape = _collect(collected, chunks)
        if not num_frames:
            raise ValueError(f'{path}: no features to write')
        with zipfile.ZipFile(partial, 'w', zipfile.ZIP_STORED) as archive:
            with archive.open('features.npy', 'w', force_zip64=True) as member:
                header = {'descr': '<f4', 'fortran_order': False, 'shape': (num_frames, *token_shape)}
                np.lib.format.write_array_header_1_0(member, header)
                collected.seek(0)
                shutil.copyfileobj(collected, member, COPY_BLOCK)
            described = {'grid': np.array(grid), 'fps': np.array(float(fps))}
            described |= {'made_with': np.array(made_with)} if made_with else {}
            for name, value in described.items():
                with archive.open(f'{name}.npy', 'w') as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)
    return num_frames


def _collect(file, chunks):
    num_frames, token_shape = 0, ()
    for features_TMD in chunks:
        num_frames, token_shape = num_frames + len(features_TMD), features_TMD.shape[1:]
        file.write(np.ascontiguousarray(features_TMD, '<f4').data)
    return num_frames, token_shape

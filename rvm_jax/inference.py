"""Features of a video of any length, frame after frame, in memory that does not grow with it (RVM, section 3.2)."""

import os
import shutil
import tempfile
import zipfile
from itertools import islice

import numpy as np

from rvm_jax.data.video import decode
from rvm_jax.data.video.lazy_frames import check_size
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage.atomic import atomic_write

CHUNK = 16  # frames encoded at once
COPY_BLOCK = 1 << 20  # bytes


def working_size(height, width, short_side, patch_size):
    """Pixels (height, width) of a frame resized to `short_side` with its aspect kept, before it is cut to patches.

    Raises UserError if that is less than a patch.
    """
    if short_side < patch_size:
        raise UserError(
            f'size {short_side}', f'a frame needs at least one patch of {patch_size} pixels', 'choose a larger size'
        )
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def fit(frame_HWC, short_side, patch_size):
    """Resize a uint8 frame to `short_side` pixels, aspect kept, then cut both sides down to whole patches.

    Lanczos as in the RVM evaluations; what is cut off is shared between both ends.
    """
    from PIL import Image

    height, width = working_size(*frame_HWC.shape[:2], short_side, patch_size)
    resized = np.asarray(Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.LANCZOS))
    return cut(resized, height // patch_size * patch_size, width // patch_size * patch_size)


def cut(frames_HWC, height, width):
    """The middle of (..., H, W, C)."""
    top, left = (frames_HWC.shape[-3] - height) // 2, (frames_HWC.shape[-2] - width) // 2
    return frames_HWC[..., top : top + height, left : left + width, :]


def video_frames(path, *, short_side, patch_size, fps=None):
    """Yield the frames of a video file as `fit` makes them: every one, or fps of them a second.

    Raises DataError where the file cannot be decoded, changes its frame size, or has frames that would grow too large.
    """
    shape = None
    for frame_HWC in decode.iterate_frames(path, fps):
        if frame_HWC.shape != (shape or frame_HWC.shape):
            raise DataError(path, 'changes its size between frames', 're-encode it')
        if shape is None:  # a frame of two rows of pixels would grow with its shorter side
            check_size(path, *working_size(*frame_HWC.shape[:2], short_side, patch_size))
        shape = frame_HWC.shape
        yield fit(frame_HWC, short_side, patch_size)


def encode_stream(model, frames, chunk=CHUNK):
    """Features of frames as they come: yields float32 arrays (T, M, D) whose T add up to the number of frames.

    frames is an iterable of uint8 HWC of one size. The last T mod chunk frames go one by one, so that only two
    lengths are ever compiled. While the device works on one piece the next one is being decoded. A model that does not
    stream sees windows of as many frames as in training, one after the other; the last may be shorter.
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


def patch_grid(features_TMD, grid, num_prefix_tokens):
    """Patch features as (T, h, w, D), prefix tokens dropped; grid is (h, w)."""
    return features_TMD[:, num_prefix_tokens:].reshape(len(features_TMD), *grid, features_TMD.shape[-1])


def write_features(path, chunks, *, grid, fps):
    """Write `features` (T, M, D) float32, `grid` (h, w) and `fps` to an .npz; T is known only when chunks end.

    The chunks are first collected in a nameless file in the same folder, so T may exceed what memory holds; the
    folder needs room for both. The .npz appears complete or not at all. Returns T; raises ValueError if it is 0.
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
            for name, value in (('grid', np.array(grid)), ('fps', np.array(float(fps)))):
                with archive.open(f'{name}.npy', 'w') as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)
    return num_frames


def _collect(file, chunks):
    num_frames, token_shape = 0, ()
    for features_TMD in chunks:
        num_frames, token_shape = num_frames + len(features_TMD), features_TMD.shape[1:]
        file.write(np.ascontiguousarray(features_TMD, '<f4').data)
    return num_frames, token_shape

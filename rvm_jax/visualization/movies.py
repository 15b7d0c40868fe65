"""Videos to look at: MP4 files that play everywhere, and contact sheets."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from rvm_jax.storage.atomic import atomic_write
from rvm_jax.visualization import canvas

COLORSPACE, LIMITED_RANGE = 6, 1  # codes of BT.601 and 16-235, the result of the conversion from RGB


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float = 16) -> None:
    """Write uint8 HWC frames as H.264 in an MP4 file, which appears complete or not at all.

    fps is the rate of playing, in frames per second. yuv420p needs even sides, so an odd side repeats its last line.
    Raises ValueError if there are no frames.
    """
    import av

    with (
        atomic_write(path) as partial,
        av.open(partial, 'w', format='mp4', options={'movflags': '+faststart'}) as container,
    ):
        stream = None
        for frame_HWC in frames:
            frame_HWC = even(frame_HWC)
            if stream is None:
                stream = _open_stream(container, frame_HWC.shape, fps)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')))
        if stream is None:
            raise ValueError(f'{path}: no frames to write')
        container.mux(stream.encode())


def side_by_side(videos: Sequence[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    """Yield the frames of several videos of one length next to each other, with their names above. uint8 HWC.

    videos is a list of (name, frames_THWC uint8); small frames are enlarged.
    """
    names, videos_VTHWC = zip(*videos, strict=True)
    factor = canvas.enlargement(*videos_VTHWC[0].shape[1:3], smallest=192)
    for views in zip(*videos_VTHWC, strict=True):
        yield canvas.strip(canvas.enlarge(np.stack(views), factor), names)


def contact_sheet(videos: Sequence[tuple[str, np.ndarray]], columns: int = 8, first: int = 0) -> np.ndarray:
    """One picture of several videos of one length: up to `columns` moments, spread from frame `first` to the last.

    videos is a list of (name, frames_THWC uint8), one row each. uint8 HWC.
    """
    num_frames, height, width, _ = videos[0][1].shape
    moments = np.unique(np.linspace(first, num_frames - 1, columns).round().astype(int))
    factor = canvas.enlargement(height, width)
    captions = [f'frame {moment}' for moment in moments]
    return canvas.named_rows(
        [
            (name, canvas.enlarge(frames_THWC[moments], factor), [] if index else captions)
            for index, (name, frames_THWC) in enumerate(videos)
        ]
    )


def even(frame_HWC: np.ndarray) -> np.ndarray:
    """The frame with even sides: an odd one repeats its last row or column."""
    height, width = frame_HWC.shape[:2]
    padded = np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    return np.ascontiguousarray(padded)


def _open_stream(container, shape, fps):
    stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.colorspace = COLORSPACE  # without this tag, players guess from the size of the picture
    stream.codec_context.color_range = LIMITED_RANGE
    stream.options = {'crf': '18', 'preset': 'medium'}
    return stream

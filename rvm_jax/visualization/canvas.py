"""Frames on a white canvas: enlarging, captions, labelled rows, tints, contact sheets, PNG files."""

import functools
import os
from collections.abc import Sequence

import cv2
import numpy as np

from rvm_jax.errors import printable
from rvm_jax.storage.atomic import atomic_write
from rvm_jax.visualization import figures

WHITE, INK, FAINT = 255, (32, 36, 44), (112, 118, 128)
GAP = 4  # pixels between neighboring frames
MARGIN = 10  # pixels around the whole picture
ROW_LABEL, CAPTION = (14, 10), (11, 13)  # text size: at least the first, in pixels, or frame width over the second
CELL = (144, 192)  # pixels of a cell of a contact sheet, height and width
COLUMNS = 6  # of a contact sheet
CAPTION_LENGTH = 22  # characters
# The first five colors of Matplotlib's default cycle, as RGB.
PALETTE = np.array(
    [(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C), (0xD6, 0x27, 0x28), (0x94, 0x67, 0xBD)], np.uint8
)
Row = tuple[str, np.ndarray, Sequence[str]]  # label, frames_THWC uint8, captions


def enlargement(height: int, width: int, *, smallest: int = 128) -> int:
    """The integer factor that enlarges frames so that their shorter side has at least `smallest` pixels."""
    return max(1, -(-smallest // min(height, width)))


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel `factor` times along both sides of (..., H, W, C)."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


@functools.lru_cache(maxsize=256)
def text_picture(text: str, size: int, color: tuple[int, int, int] = INK) -> np.ndarray:
    """One line of text on white, cropped to its width; the height only depends on size (pixels). uint8 HWC."""
    text, dots_per_inch, height = printable(text), 100, round(size * 1.5)
    shape = (len(text) + 2) * size / dots_per_inch, height / dots_per_inch
    with figures.new_figure(figsize=shape, dpi=dots_per_inch) as figure:
        points = size * 72 / dots_per_inch
        figure.text(0, 0.3, text, fontsize=points, color=np.array(color) / 255, parse_math=False)  # names may have $
        picture = figures.drawn(figure)
    inked = np.flatnonzero((picture != WHITE).any(axis=(0, 2)))
    return picture[:, : inked[-1] + 1].copy() if inked.size else picture[:, :1].copy()


def strip(frames_THWC: np.ndarray, captions: Sequence[str] = ()) -> np.ndarray:
    """Frames side by side, each with a caption above it if there are captions. uint8 HWC."""
    count, height, width, _ = frames_THWC.shape
    top, size = _caption_height(captions, width), _text_size(CAPTION, width)
    picture = np.full((top + height, count * (width + GAP) - GAP, 3), WHITE, np.uint8)
    for index, frame_HWC in enumerate(frames_THWC):
        left = index * (width + GAP)
        picture[top:, left : left + width] = frame_HWC
        if index < len(captions):
            words = text_picture(captions[index], size, FAINT)[:, :width]
            picture[: words.shape[0], left : left + words.shape[1]] = words
    return picture


def beside(pictures: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Pictures from left to right, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    columns = []
    for picture in pictures:
        columns += [pad(picture, height, picture.shape[1]), np.full((height, gap, 3), WHITE, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def stack(pictures: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Pictures from top to bottom, aligned at the left."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        rows += [pad(picture, picture.shape[0], width), np.full((gap, width, 3), WHITE, np.uint8)]
    return np.concatenate(rows[:-1], axis=0)


def pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """White below and to the right, up to height x width."""
    below, right = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right), (0, 0)), constant_values=WHITE)


def row_labels(rows: Sequence[Row]) -> np.ndarray:
    """The column of labels to the left of `block(rows)`: right-aligned, each at the middle of its frames."""
    words = [text_picture(label, _text_size(ROW_LABEL, frames.shape[2])) for label, frames, _ in rows]
    width = max(word.shape[1] for word in words)
    cells = []
    for word, (_, frames, captions) in zip(words, rows, strict=True):
        height, top = frames.shape[1], _caption_height(captions, frames.shape[2])
        cell = np.full((top + height, width, 3), WHITE, np.uint8)
        start = top + max(0, (height - word.shape[0]) // 2)
        shown = word[: cell.shape[0] - start]
        cell[start : start + shown.shape[0], width - word.shape[1] :] = shown
        cells.append(cell)
    return stack(cells)


def block(rows: Sequence[Row]) -> np.ndarray:
    """Rows of frames, one below the other."""
    return stack([strip(frames, captions) for _, frames, captions in rows])


def named_rows(rows: Sequence[Row]) -> np.ndarray:
    """The complete picture of one block with its labels."""
    return framed(beside([row_labels(rows), block(rows)], gap=MARGIN))


def framed(picture: np.ndarray) -> np.ndarray:
    """A white margin on all four sides."""
    return np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=WHITE)


def blend(frames: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Half frame, half color; both uint8 (..., C), the result is rounded down."""
    return ((frames.astype(np.uint16) + colors) // 2).astype(np.uint8)


def tint(frames_THWC: np.ndarray, mask_THW: np.ndarray, color: Sequence[int] | np.ndarray = PALETTE[1]) -> np.ndarray:
    """Blend one color over the pixels where the mask is set; other pixels do not change."""
    return np.where(mask_THW[..., None].astype(bool), blend(frames_THWC, np.asarray(color, np.uint8)), frames_THWC)


def contact_sheet(pictures: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """The contact sheet, uint8 HWC, of (caption, frame HWC uint8) of any sizes."""
    cells = [_fitted(frame_HWC) for _, frame_HWC in pictures]
    captions = [_shortened(caption) for caption, _ in pictures]
    rows = [
        strip(np.stack(cells[start : start + COLUMNS]), captions[start : start + COLUMNS])
        for start in range(0, len(cells), COLUMNS)
    ]
    return framed(stack(rows, gap=MARGIN))


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a uint8 HWC RGB picture; the file appears complete or not at all."""
    write_bytes(path, png_bytes(picture))


def png_bytes(picture: np.ndarray) -> bytes:
    """A uint8 HWC RGB picture as a PNG file."""
    return cv2.imencode('.png', picture[..., ::-1])[1].tobytes()


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file under another name, then rename it, so that a reader never sees half of it."""
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        file.write(content)


def _caption_height(captions, frame_width):
    return round(_text_size(CAPTION, frame_width) * 1.5) + 1 if captions else 0


def _text_size(rule, frame_width):
    smallest, share = rule
    return max(smallest, frame_width // share)


def _fitted(frame_HWC):
    """The frame in the middle of a cell, as large as fits."""
    height, width = frame_HWC.shape[:2]
    scale = min(CELL[0] / height, CELL[1] / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    cell = np.full((*CELL, 3), WHITE, np.uint8)
    top, left = (CELL[0] - size[0]) // 2, (CELL[1] - size[1]) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell[top : top + size[0], left : left + size[1]] = cv2.resize(frame_HWC, size[::-1], interpolation=method)
    return cell


def _shortened(caption):
    """The end of a long name, which says more than its beginning."""
    return caption if len(caption) <= CAPTION_LENGTH else '...' + caption[3 - CAPTION_LENGTH :]

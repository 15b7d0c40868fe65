"""Laying frames out on a white canvas: enlarging, small captions, labelled rows, PNG files."""

import functools

import numpy as np

from rvm_jax.whole import whole

WHITE, INK, FAINT = 255, (32, 36, 44), (112, 118, 128)
GAP = 4  # pixels between neighboring frames
MARGIN = 10  # pixels around the whole picture
ROW_LABEL, CAPTION = (14, 10), (11, 13)  # text size: at least so many pixels, and frame width over so many


def enlargement(height, width, smallest=128):
    """Whole factor by which frames of this size grow so that their short side has at least `smallest` pixels."""
    return max(1, -(-smallest // min(height, width)))


def enlarge(frames, factor):
    """Repeat every pixel `factor` times along both sides of (..., H, W, C)."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


@functools.lru_cache(maxsize=256)
def text_picture(text, size, color=INK):
    """One line of text on white, cropped to its width; the height depends on size (pixels) only. uint8 HWC."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dots_per_inch, height = 100, round(size * 1.5)
    figure = Figure(figsize=((len(text) + 2) * size / dots_per_inch, height / dots_per_inch), dpi=dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    figure.text(0, 0.3, text, fontsize=size * 72 / dots_per_inch, color=np.array(color) / 255)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3]
    inked = np.flatnonzero((picture != WHITE).any(axis=(0, 2)))
    return picture[:, : inked[-1] + 1].copy() if inked.size else picture[:, :1].copy()


def strip(frames_THWC, captions=()):
    """Frames side by side, a caption above each one if there are captions. uint8 HWC."""
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


def beside(pictures, gap=GAP):
    """Pictures from left to right, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    columns = []
    for picture in pictures:
        columns += [pad(picture, height, picture.shape[1]), np.full((height, gap, 3), WHITE, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def stack(pictures, gap=GAP):
    """Pictures from top to bottom, aligned at the left."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        rows += [pad(picture, picture.shape[0], width), np.full((gap, width, 3), WHITE, np.uint8)]
    return np.concatenate(rows[:-1], axis=0)


def pad(picture, height, width):
    """White below and to the right, up to height x width."""
    below, right = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right), (0, 0)), constant_values=WHITE)


def row_labels(rows):
    """The column of labels that goes to the left of `block(rows)`: right-aligned, each at the middle of its frames."""
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


def block(rows):
    """Rows of frames, one under the other. rows is a list of (label, frames_THWC uint8, captions)."""
    return stack([strip(frames, captions) for _, frames, captions in rows])


def named_rows(rows):
    """The finished picture of one block with its labels."""
    return framed(beside([row_labels(rows), block(rows)], gap=MARGIN))


def framed(picture):
    """A white margin on all four sides."""
    return np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=WHITE)


def _caption_height(captions, frame_width):
    return round(_text_size(CAPTION, frame_width) * 1.5) + 1 if captions else 0


def _text_size(rule, frame_width):
    smallest, share = rule
    return max(smallest, frame_width // share)


def write_png(path, picture):
    """Write a uint8 HWC RGB picture; the file appears complete or not at all."""
    write_bytes(path, png_bytes(picture))


def png_bytes(picture):
    """The PNG file of a uint8 HWC RGB picture."""
    import cv2

    return cv2.imencode('.png', picture[..., ::-1])[1].tobytes()


def write_bytes(path, content):
    """Write a whole file under another name, then rename, so that a reader never sees half of it."""
    with whole(path) as partial, open(partial, 'wb') as file:
        file.write(content)

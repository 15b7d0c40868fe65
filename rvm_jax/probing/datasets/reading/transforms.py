"""What turns a video and its truth into a clip: which frames, which crop, which colors, how many tracks, which poses.

A crop is chosen before anything is cut, and it is the same for all frames of a clip and for their truth. Points and
boxes are in [0, 1] from the top left corner of the frame to its bottom right corner, so the center of the first of four
pixels is at 1/8; resizing does not change them.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from rvm_jax.data.augment import crop_resize, draw_crop
from rvm_jax.data.clips import TooShort

SQUARISH = (3 / 4, 4 / 3)  # width over height of the usual random crop
# Random colors. Strengths are those of TAP, and ours where none is published.
JITTERED = 0.8  # probability that brightness, contrast, saturation and hue change
GRAY = 0.2  # probability that a clip loses its colors
BRIGHTNESS = 32 / 255  # of the full range, added or subtracted
CONTRAST = SATURATION = (0.6, 1.4)  # factors
HUE = 0.2  # of the full circle, in either direction


def choose_frames(
    rng: np.random.Generator | None,
    total: int,
    *,
    num_frames: int,
    stride: int,
    clip: int = 0,
    num_clips: int = 1,
    start: str = 'center',
    name: str | None = None,
) -> np.ndarray:
    """Frame numbers (num_frames,), stride apart, in a video of total frames.

    rng draws where the clip starts. Without rng it is clip number `clip` of num_clips clips, spread evenly from the
    first possible start to the last; a single clip is at the 'center' or at the 'first' possible start. A video that is
    too short repeats its last frame, or raises TooShort if it has a name.
    """
    room = total - (stride * (num_frames - 1) + 1)
    if room < 0 and name is not None:
        fix = 'leave it out, or ask for fewer frames or a smaller stride'
        raise TooShort(name, f'has too few frames ({total}, a clip needs {total - room})', fix)
    room = max(room, 0)
    if rng is not None:
        first = int(rng.integers(room, endpoint=True))
    elif num_clips > 1:
        first = round(float(np.linspace(0, room, num_clips)[clip]))
    else:
        first = room // 2 if start == 'center' else 0
    return np.minimum(first + stride * np.arange(num_frames), total - 1)


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box (top, left, height, width) in pixels of frames of frame_size (height, width), mirrored or not."""

    box: tuple[int, int, int, int]
    frame_size: tuple[int, int]
    is_flipped: bool = False

    def frames(self, frames: Sequence[np.ndarray] | np.ndarray, image_size: int) -> np.ndarray:
        """(T, image_size, image_size, 3) uint8 of frames HWC, all of frame_size: cut, resized, flipped."""
        out_THWC = np.empty((len(frames), image_size, image_size, 3), np.uint8)
        for frame_HWC, out_HWC in zip(frames, out_THWC, strict=True):
            crop_resize(frame_HWC, self.box, image_size, out_HWC)
        return np.ascontiguousarray(out_THWC[:, :, ::-1]) if self.is_flipped else out_THWC

    def maps(self, maps_THW: np.ndarray, image_size: int) -> np.ndarray:
        """The same for maps that must not be averaged, such as depth: the nearest pixel.

        Maps may have another size than the frames if they show the same view.
        """
        top, left, height, width = self.box
        rows = (top + (np.arange(image_size) + 0.5) * height / image_size) * maps_THW.shape[1] / self.frame_size[0]
        columns = (left + (np.arange(image_size) + 0.5) * width / image_size) * maps_THW.shape[2] / self.frame_size[1]
        columns = columns[::-1] if self.is_flipped else columns
        return maps_THW[:, rows.astype(int)[:, None], columns.astype(int)]

    def points(self, points_X2: ArrayLike) -> np.ndarray:
        """Points (..., 2), x and y in [0, 1] of the frame, in [0, 1] of the crop; points outside leave that range."""
        top, left, height, width = self.box
        moved_X2 = (np.asarray(points_X2) * self.frame_size[::-1] - (left, top)) / (width, height)
        if self.is_flipped:
            moved_X2 = moved_X2 * (-1, 1) + (1, 0)
        return moved_X2.astype(np.float32)

    def boxes(self, boxes_X4: ArrayLike) -> np.ndarray:
        """Boxes (..., 4), x0 y0 x1 y1, likewise, cut off at the edges of the crop; a box outside keeps no area."""
        corners_X22 = self.points(np.reshape(boxes_X4, (*np.shape(boxes_X4)[:-1], 2, 2)))
        corners_X22 = np.sort(corners_X22, axis=-2).clip(0, 1)
        return corners_X22.reshape(np.shape(boxes_X4))


def central_crop(height: int, width: int, *, fraction: float = 1.0) -> Crop:
    """The central square whose side is a fraction of the shorter side of the frame."""
    side = max(1, round(min(height, width) * fraction))
    return Crop(((height - side) // 2, (width - side) // 2, side, side), (height, width))


def whole_frame(height: int, width: int) -> Crop:
    """All of the frame; resizing makes it a square, whatever its shape."""
    return Crop((0, 0, height, width), (height, width))


def random_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float] = SQUARISH,
    flip: float = 0.0,
) -> Crop:
    """A random crop: area is the (low, high) fraction of the frame, ratio the (low, high) width / height.

    flip is the probability that it is mirrored.
    """
    box = draw_crop(rng, height, width, area, ratio)
    return Crop(box, (height, width), flip > 0 and bool(rng.random() < flip))


def random_colors(rng: np.random.Generator, frames_THWC: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 with the same random change of colors for all frames, or unchanged."""
    if rng.random() < JITTERED:
        frames_THWC = jitter(
            frames_THWC,
            brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS),
            contrast=rng.uniform(*CONTRAST),
            saturation=rng.uniform(*SATURATION),
            hue=rng.uniform(-HUE, HUE),
        )
    return gray(frames_THWC) if rng.random() < GRAY else frames_THWC


def jitter(frames_THWC: np.ndarray, *, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """brightness is added (1 is the full range), contrast and saturation are factors, hue a fraction of the circle.

    In this order: brightness, contrast (about the mean of each color over the clip), then hue and saturation.
    """
    mean_3 = 255 * brightness + frames_THWC.mean((0, 1, 2))
    levels = np.arange(256)[:, None] + 255 * brightness  # a table, because there are only 256 inputs
    table_LC = (((levels - mean_3) * contrast + mean_3) / 255).clip(0, 1).astype(np.float32)
    out_THWC = np.empty_like(frames_THWC)
    for frame_HWC, out_HWC in zip(frames_THWC, out_THWC, strict=True):
        hsv = cv2.cvtColor(cv2.LUT(frame_HWC, table_LC[None]), cv2.COLOR_RGB2HSV)
        angle, amount, value = cv2.split(hsv)
        angle += 360 * hue
        angle[angle < 0] += 360
        angle[angle >= 360] -= 360
        hsv = cv2.merge([angle, np.minimum(amount * saturation, 1, dtype=np.float32), value])
        cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dst=out_HWC, alpha=255)
    return out_THWC


def gray(frames_THWC: np.ndarray) -> np.ndarray:
    """The frames without color, in three channels."""
    rows = frames_THWC.reshape(-1, frames_THWC.shape[2], 3)
    return np.repeat(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(*frames_THWC.shape[:3], 1), 3, axis=-1)


def padded(array_QX: np.ndarray, count: int) -> np.ndarray:
    """The first count rows; if there are fewer, rows of zeros after them."""
    array_QX = array_QX[:count]
    return np.concatenate([array_QX, np.zeros((count - len(array_QX), *array_QX.shape[1:]), array_QX.dtype)])


def rotations(quaternions_X4: ArrayLike) -> np.ndarray:
    """Matrices (..., 3, 3) of quaternions w, x, y, z of any length except 0."""
    quaternions_X4 = np.asarray(quaternions_X4, np.float64)
    w, x, y, z = np.moveaxis(quaternions_X4 / np.linalg.norm(quaternions_X4, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def poses(rotations_X33: ArrayLike, translations_X3: ArrayLike) -> np.ndarray:
    """Matrices (..., 4, 4) that map p to R p + t. ValueError if a number is not finite."""
    poses_X44 = np.zeros((*np.shape(rotations_X33)[:-2], 4, 4))
    poses_X44[..., :3, :3], poses_X44[..., :3, 3], poses_X44[..., 3, 3] = rotations_X33, translations_X3, 1
    if not np.isfinite(poses_X44).all():
        raise ValueError('a pose is not finite')
    return poses_X44

"""Flip, crop and resize (RVM, supplement 7).

One draw serves a whole clip. The supplement says "video-level" of the flip and "frame-level" of the crop, which by its
words is one crop a frame. One crop a clip is our choice: it keeps the motion in a clip as it was, and V-JEPA, whose
numbers these nearly are, does so. `data.crop_level` takes the other, as the recipes in configs/paper/ do.

LazyFrames in, frames (T, image_size, image_size, 3) uint8 out. The crop is drawn before anything is decoded, so that
large frames are decoded at a fraction of their size where that is enough; then each is resized once.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from rvm_jax.data.video.lazy_frames import LazyFrames

CROP_TRIES = 10
Crop = tuple[int, int, int, int]  # top, left, height, width in pixels
# Up to this ratio of crop side to image_size, plain bicubic is closer to antialiased bicubic than area averaging is.
CUBIC_UP_TO = 1.2


def augment_clip(
    rng: np.random.Generator,
    pictures: LazyFrames,
    *,
    image_size: int,
    flip: float,
    crop_area: tuple[float, float],
    crop_ratio: tuple[float, float],
    crop_level: str,
    resize: str,
) -> np.ndarray:
    """A random resized crop, then a flip with probability flip.

    The crop is the same for all frames, or one is drawn per frame (crop_level 'frame'). frames_THWC, uint8.
    resize: 'auto' or 'bicubic', see `crop_resize`.
    """
    is_flipped = rng.random() < flip
    num_crops = pictures.num_frames if crop_level == 'frame' else 1
    crops = [draw_crop(rng, pictures.height, pictures.width, crop_area, crop_ratio) for _ in range(num_crops)]
    crops *= pictures.num_frames // num_crops  # one crop for all, or one each
    return _cut(pictures, crops, image_size, is_flipped, resize)


def center_crop_resize(pictures: LazyFrames, image_size: int, resize: str = 'auto') -> np.ndarray:
    """The largest central square, resized as training does, as frames_THWC, uint8; no randomness, for evaluation."""
    side = min(pictures.height, pictures.width)
    crop = ((pictures.height - side) // 2, (pictures.width - side) // 2, side, side)
    return _cut(pictures, [crop] * pictures.num_frames, image_size, False, resize)


def _cut(pictures, crops, image_size, is_flipped, resize):
    """Frames, each cut by its crop (in pixels of the whole picture) and resized."""
    smallest = min(min(height, width) for _, _, height, width in crops)
    factors = (1, 2, 4, 8) if resize == 'auto' else (1,)  # a picture that is decoded smaller is averaged over areas
    shrink = max(factor for factor in factors if factor == 1 or smallest >= factor * image_size)
    out_THWC = np.empty((pictures.num_frames, image_size, image_size, 3), np.uint8)
    for frame_HWC, crop, out_HWC in zip(pictures.decode(shrink), crops, out_THWC, strict=True):
        done = -(-pictures.height // frame_HWC.shape[0])  # shrink, or 1 where the codec cannot
        # In whole pixels of a shrunken frame, even where the codec cannot shrink: the crop must not depend on it.
        crop_resize(frame_HWC, [side // shrink * shrink // done for side in crop], image_size, out_HWC, resize)
        if is_flipped:
            cv2.flip(out_HWC, 1, dst=out_HWC)
    return out_THWC


def draw_crop(
    rng: np.random.Generator, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """Draw (top, left, height, width) in pixels.

    area is the (low, high) fraction of the frame, uniform; ratio the (low, high) width / height, log-uniform. A box
    that does not fit is drawn again; after 10 tries it is the largest central box of an allowed ratio (as in V-JEPA).
    """
    for _ in range(CROP_TRIES):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        crop_width, crop_height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height, endpoint=True))
            left = int(rng.integers(width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crop_resize(
    frame_HWC: np.ndarray, crop: Sequence[int], image_size: int, out_HWC: np.ndarray, resize: str = 'auto'
) -> None:
    """Cut crop (top, left, height, width) out of a frame and resize it to a square of image_size, once, into out_HWC.

    resize 'bicubic': always bicubic, as the paper says. 'auto' is our choice: bicubic where the crop grows or barely
    shrinks, averaging over areas where it shrinks more, because OpenCV's bicubic does not antialias. Distance from
    antialiased bicubic on natural 720p frames, in dB of peak signal to noise (higher is nearer), when shrinking by 0.8,
    1.1, 1.25, 1.6, 2.5: bicubic 48, 46, 42, 36, 32; area 43, 43, 43, 44, 44.
    """
    top, left, height, width = crop
    is_shrinking = min(height, width) >= image_size and max(height, width) > CUBIC_UP_TO * image_size
    method = cv2.INTER_AREA if is_shrinking and resize == 'auto' else cv2.INTER_CUBIC
    cut = frame_HWC[top : top + height, left : left + width]
    cv2.resize(cut, (image_size, image_size), dst=out_HWC, interpolation=method)

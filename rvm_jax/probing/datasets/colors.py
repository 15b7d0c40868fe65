"""Random colors, the same change for all frames of a clip (strengths of TAP, ours where none is known)."""

import cv2
import numpy as np

JITTERED = 0.8  # how often brightness, contrast, saturation and hue change
GRAY = 0.2  # how often a clip loses its colors
BRIGHTNESS = 32 / 255  # of the full range, added or taken away
CONTRAST = SATURATION = (0.6, 1.4)  # factors
HUE = 0.2  # of the full circle, either way


def random_colors(rng, frames_THWC):
    """Frames (T, H, W, 3) uint8 with other colors, or the same ones."""
    if rng.random() < JITTERED:
        frames_THWC = jitter(
            frames_THWC,
            brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS),
            contrast=rng.uniform(*CONTRAST),
            saturation=rng.uniform(*SATURATION),
            hue=rng.uniform(-HUE, HUE),
        )
    return gray(frames_THWC) if rng.random() < GRAY else frames_THWC


def jitter(frames_THWC, *, brightness, contrast, saturation, hue):
    """brightness is added (1 is the full range), contrast and saturation are factors, hue a fraction of the circle.

    In this order: brightness, contrast (about each color's mean over the clip), then hue and saturation.
    """
    num_frames, height, width, _ = frames_THWC.shape
    frames = frames_THWC.astype(np.float32) / 255 + np.float32(brightness)
    mean_3 = frames.mean((0, 1, 2))
    frames = ((frames - mean_3) * np.float32(contrast) + mean_3).clip(0, 1)
    hsv = cv2.cvtColor(frames.reshape(num_frames * height, width, 3), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
    hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 1)
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8).reshape(frames_THWC.shape)


def gray(frames_THWC):
    """The same without color, in three channels."""
    rows = frames_THWC.reshape(-1, frames_THWC.shape[2], 3)
    return np.repeat(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(*frames_THWC.shape[:3], 1), 3, axis=-1)

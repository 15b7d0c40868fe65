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
    mean_3 = 255 * brightness + frames_THWC.mean((0, 1, 2))
    levels = np.arange(256)[:, None] + 255 * brightness  # contrast and brightness are a table: there are few inputs
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


def gray(frames_THWC):
    """The same without color, in three channels."""
    rows = frames_THWC.reshape(-1, frames_THWC.shape[2], 3)
    return np.repeat(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(*frames_THWC.shape[:3], 1), 3, axis=-1)

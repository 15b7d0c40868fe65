"""Labels and masks tinted over frames with the palette and half-and-half blend of the RVM figures."""

import numpy as np

# The first five colors of Matplotlib's default cycle, as RGB.
PALETTE = np.array(
    [(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C), (0xD6, 0x27, 0x28), (0x94, 0x67, 0xBD)], np.uint8
)


def blend(frames, colors):
    """Half frame, half color; both uint8 (..., C), the result is rounded down."""
    return ((frames.astype(np.uint16) + colors) // 2).astype(np.uint8)


def tint(frames_THWC, mask_THW, color=PALETTE[1]):
    """Blend one color over the pixels where the mask is set; the others stay as they are."""
    return np.where(mask_THW[..., None].astype(bool), blend(frames_THWC, np.asarray(color, np.uint8)), frames_THWC)

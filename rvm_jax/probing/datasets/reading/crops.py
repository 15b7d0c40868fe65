"""Cut a part out of every frame of a clip, and out of its truth: one crop for both, so that they still agree.

A crop is known before anything is cut. Points and boxes count from the frame's top left corner, 0, to its bottom right
corner, 1, so the center of the first of four pixels is at 1/8; resizing keeps them.
"""

import dataclasses

import numpy as np

from rvm_jax.data.augment import crop_resize, draw_crop

SQUARISH = (3 / 4, 4 / 3)  # width over height of the usual random crop


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box (top, left, height, width) in pixels of frames of frame_size (height, width), mirrored or not."""

    box: tuple
    frame_size: tuple
    is_flipped: bool = False

    def frames(self, frames, image_size):
        """(T, image_size, image_size, 3) uint8 of frames HWC, all of frame_size: cut, resized, flipped."""
        out_THWC = np.empty((len(frames), image_size, image_size, 3), np.uint8)
        for frame_HWC, out_HWC in zip(frames, out_THWC, strict=True):
            crop_resize(frame_HWC, self.box, image_size, out_HWC)
        return np.ascontiguousarray(out_THWC[:, :, ::-1]) if self.is_flipped else out_THWC

    def maps(self, maps_THW, image_size):
        """The same of maps that must not be averaged, such as depth: the nearest pixel.

        Maps may have another size than the frames, if they show the same.
        """
        top, left, height, width = self.box
        rows = (top + (np.arange(image_size) + 0.5) * height / image_size) * maps_THW.shape[1] / self.frame_size[0]
        columns = (left + (np.arange(image_size) + 0.5) * width / image_size) * maps_THW.shape[2] / self.frame_size[1]
        columns = columns[::-1] if self.is_flipped else columns
        return maps_THW[:, rows.astype(int)[:, None], columns.astype(int)]

    def points(self, points_X2):
        """Points (..., 2), x and y in [0, 1] of the frame, in [0, 1] of the crop; those outside leave that range."""
        top, left, height, width = self.box
        points_X2 = (np.asarray(points_X2) * self.frame_size[::-1] - (left, top)) / (width, height)
        if self.is_flipped:
            points_X2 = points_X2 * (-1, 1) + (1, 0)
        return points_X2.astype(np.float32)

    def boxes(self, boxes_X4):
        """Boxes (..., 4), x0 y0 x1 y1, likewise, cut off at the edges of the crop; of one outside no area is left."""
        corners_X22 = self.points(np.reshape(boxes_X4, (*np.shape(boxes_X4)[:-1], 2, 2)))
        corners_X22 = np.sort(corners_X22, axis=-2).clip(0, 1)
        return corners_X22.reshape(np.shape(boxes_X4))


def central(height, width, fraction=1.0):
    """The central square whose side is a fraction of the frame's shorter one."""
    side = max(1, round(min(height, width) * fraction))
    return Crop(((height - side) // 2, (width - side) // 2, side, side), (height, width))


def whole(height, width):
    """All of the frame: resizing makes it a square, whatever its shape."""
    return Crop((0, 0, height, width), (height, width))


def drawn(rng, height, width, area, ratio=SQUARISH, flip=0.0):
    """A random crop: area is the (low, high) fraction of the frame, ratio the (low, high) width / height.

    flip is the probability that it is mirrored.
    """
    box = draw_crop(rng, height, width, area, ratio)
    return Crop(box, (height, width), flip > 0 and bool(rng.random() < flip))

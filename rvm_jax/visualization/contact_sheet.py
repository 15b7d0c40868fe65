"""Many videos at a glance: a frame of each, with its name."""

import cv2
import numpy as np

from rvm_jax.visualization.canvas import MARGIN, WHITE, framed, stack, strip

CELL = (144, 192)  # pixels of a cell, height and width
COLUMNS = 6
LETTERS = 22  # of a caption


def contact_sheet(pictures):
    """The sheet, uint8 HWC, of pictures: a list of (caption, frame HWC uint8) of any sizes."""
    cells = [_fitted(frame_HWC) for _, frame_HWC in pictures]
    captions = [_shortened(caption) for caption, _ in pictures]
    rows = [
        strip(np.stack(cells[start : start + COLUMNS]), captions[start : start + COLUMNS])
        for start in range(0, len(cells), COLUMNS)
    ]
    return framed(stack(rows, gap=MARGIN))


def _fitted(frame_HWC):
    """The frame as large as it fits into a cell, in the middle of it."""
    height, width = frame_HWC.shape[:2]
    scale = min(CELL[0] / height, CELL[1] / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    cell = np.full((*CELL, 3), WHITE, np.uint8)
    top, left = (CELL[0] - size[0]) // 2, (CELL[1] - size[1]) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell[top : top + size[0], left : left + size[1]] = cv2.resize(frame_HWC, size[::-1], interpolation=method)
    return cell


def _shortened(caption):
    """The end of a long name, which tells more than its beginning."""
    return caption if len(caption) <= LETTERS else '...' + caption[3 - LETTERS :]

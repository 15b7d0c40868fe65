"""The prediction of a probe, drawn over its clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from rvm_jax.visualization import canvas
from rvm_jax.visualization.canvas import PALETTE, blend

COLUMNS = 8  # frames shown of a clip


def picture(
    video_THWC: np.ndarray,
    prediction: Mapping[str, np.ndarray],
    example: Mapping[str, Any],
    classes: Sequence[str] | None = None,
) -> np.ndarray | None:
    """Rows of frames, prediction above truth; None if nothing in the prediction can be drawn.

    prediction is what a task predicts, by the names in DRAWN; classes are the names of labels.
    """
    T, height, width, _ = video_THWC.shape
    shown = np.unique(np.linspace(0, T - 1, min(T, COLUMNS)).round().astype(int))
    factor = canvas.enlargement(height, width)
    frames = canvas.enlarge(video_THWC[shown], factor)
    captions = [f'frame {t}' for t in shown]
    if 'probabilities_K' in prediction:
        return canvas.named_rows(
            [(_answer(prediction['probabilities_K'], example['label'], classes), frames, captions)]
        )
    for key, draw in DRAWN.items():
        if key in prediction:
            predicted, truth = draw(frames, prediction, example, shown)
            rows = [('clip', frames, captions), ('predicted', predicted, ()), ('truth', truth, ())]
            return canvas.named_rows(rows)
    return None


def _answer(probabilities_K, label, classes):
    best = int(np.argmax(probabilities_K))
    named = classes or ()  # data may have fewer classes than the task
    said, true = (named[number] if number < len(named) else str(number) for number in (best, int(label)))
    return f'predicted: {said} ({probabilities_K[best]:.0%}), truth: {true}'


def _depth(frames, prediction, example, shown):
    truth_THW = example['depth_THW'][shown]
    known = truth_THW[truth_THW > 0]
    nearest, farthest = (known.min(), known.max()) if len(known) else (0, 1)

    def colored(depth_THW):
        share_THW = np.clip((depth_THW - nearest) / max(farthest - nearest, 1e-6), 0, 1)
        gray_THW = (255 * (1 - share_THW)).astype(np.uint8)
        colors = np.stack([cv2.applyColorMap(gray_HW, cv2.COLORMAP_INFERNO)[..., ::-1] for gray_HW in gray_THW])
        colors[depth_THW <= 0] = 0
        return np.stack([cv2.resize(color, frames.shape[2:0:-1], interpolation=cv2.INTER_NEAREST) for color in colors])

    return colored(prediction['depth_THW'][shown]), colored(truth_THW)


def _points(frames, prediction, example, shown):
    size = np.array(frames.shape[2:0:-1])
    valid_Q = prediction.get('asked_Q', example['valid_Q'])

    def drawn(tracks_QT2, visible_QT):
        pictures = frames.copy()
        for frame, t in zip(pictures, shown, strict=True):
            for number, (place_2, visible) in enumerate(zip(tracks_QT2[:, t], visible_QT[:, t], strict=True)):
                center = tuple(int(value) for value in np.clip(place_2 * size, -1000, 10000))
                color = tuple(int(value) for value in PALETTE[number % len(PALETTE)])
                cv2.circle(frame, center, 4, color, -1 if visible else 1, cv2.LINE_AA)
        return pictures

    return (
        drawn(prediction['tracks_QT2'][valid_Q], prediction['visible_QT'][valid_Q]),
        drawn(example['tracks_QT2'][valid_Q], example['visible_QT'][valid_Q]),
    )


def _boxes(frames, prediction, example, shown):
    size = np.array(frames.shape[2:0:-1])

    def drawn(boxes_QT4):
        pictures = frames.copy()
        for frame, t in zip(pictures, shown, strict=True):
            for number in np.flatnonzero(example['known_QT'][:, t]):
                corners_22 = np.clip(boxes_QT4[number, t].reshape(2, 2) * size, -1000, 10000).astype(int)
                color = tuple(int(value) for value in PALETTE[number % len(PALETTE)])
                cv2.rectangle(frame, tuple(corners_22[0].tolist()), tuple(corners_22[1].tolist()), color, 2)
        return pictures

    return drawn(prediction['boxes_QT4']), drawn(example['boxes_QT4'])


def _patches(frames, prediction, example, shown):
    return masks(frames, prediction['patches_Thw'][shown]), masks(frames, example['masks_THW'][shown])


def masks(frames_THWC: np.ndarray, labels_THW: np.ndarray) -> np.ndarray:
    """Frames with a color blended over each label except 0; labels are enlarged to the size of the frames."""
    size = frames_THWC.shape[2:0:-1]
    large = np.stack([cv2.resize(a.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for a in labels_THW])
    colors = PALETTE[large % len(PALETTE)].astype(np.uint8)
    return np.where(large[..., None] > 0, blend(frames_THWC, colors), frames_THWC)


DRAWN = {'depth_THW': _depth, 'tracks_QT2': _points, 'boxes_QT4': _boxes, 'patches_Thw': _patches}

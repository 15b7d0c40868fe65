"""Recognition: videos or pictures that each have one label."""

import collections
import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading.dataset_files import once
from rvm_jax.probing.datasets.reading.images import read_image, read_video
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, random_colors, random_crop


class LabelledVideos:
    """example(index) of items [(path, id, label), ...]; evaluation has num_clips examples of each video in a row.

    classes are the names of the labels. Training: a random start, a random crop with an area in crop_area, mirrored
    with probability flip, random colors if colors is set. Evaluation: the central square. Frames are counted at fps, or
    at the rate of the file, but not at more than most_fps. Videos that are too short repeat their last frame.
    """

    most_fps: float | None = None

    def __init__(self, items, classes, *, num_frames, image_size, stride, fps, num_clips, crop_area, flip, colors):
        self.items, self.classes, self.num_frames = distinct(items), tuple(classes), num_frames
        self._image_size, self._fps, self._num_clips = image_size, fps, num_clips
        self._choose = functools.partial(choose_frames, num_frames=num_frames, stride=stride, num_clips=num_clips)
        self._crop_area, self._flip, self._has_colors = crop_area, flip, colors

    def __len__(self) -> int:
        return len(self.items) * self._num_clips

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip: id, video_THWC, label. DataError if the video cannot be read."""
        place, clip = divmod(index, self._num_clips)
        path, name, label = self.items[place]
        frames, _ = read_video(path, lambda total: self._choose(rng, total, clip=clip), self._fps, self.most_fps)
        size = frames[0].shape[:2]
        if rng is None:
            crop = central_crop(*size)
        else:
            crop = random_crop(rng, *size, area=self._crop_area, flip=self._flip)
        video_THWC = crop.frames(frames, self._image_size)
        if rng is not None and self._has_colors:
            video_THWC = random_colors(rng, video_THWC)
        return {'id': name, 'video_THWC': video_THWC, 'label': np.int32(label)}


class LabelledImages:
    """example(index) of pictures [(path, id, label), ...], each a video of one frame, or of `repeat` equal frames.

    Equal frames are for video models; `tasks.recognition` says how their features are read. Training: a random crop,
    mirrored with probability flip. Evaluation: the central image_size pixels of a picture whose shorter side is resized
    to resize_to pixels.
    """

    def __init__(self, items, classes, *, image_size, resize_to, crop_area, flip, repeat):
        if image_size > resize_to:
            raise UserError(
                f'image_size {image_size}', f'is more than resize_to, {resize_to}', 'choose a larger resize_to'
            )
        self.items, self.classes, self.num_frames = distinct(items), tuple(classes), repeat
        self._image_size, self._fraction = image_size, image_size / resize_to
        self._crop_area, self._flip = crop_area, flip

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One picture: id, video_THWC, label. DataError if it cannot be read."""
        path, name, label = self.items[index]
        frame_HWC = read_image(path)
        size = frame_HWC.shape[:2]
        if rng is None:
            crop = central_crop(*size, fraction=self._fraction)
        else:
            crop = random_crop(rng, *size, area=self._crop_area, flip=self._flip)
        video_THWC = np.repeat(crop.frames([frame_HWC], self._image_size), self.num_frames, axis=0)
        return {'id': name, 'video_THWC': video_THWC, 'label': np.int32(label)}


def distinct(items: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Items, each once; if an earlier item has the same id, a number is added.

    Scores average clips that share an id, so only clips of one video may share one.
    """
    named: list[tuple[str, str, int]] = []
    seen: collections.Counter[str] = collections.Counter()
    for path, name, label in once(items):
        seen[name] += 1
        named.append((path, name if seen[name] == 1 else f'{name} #{seen[name]}', label))
    return named


def say_missing(dataset: str, split: str, missing: int, total: int) -> None:
    """Warn once how many videos of a list are not on disk: some are always gone from the web."""
    if missing:
        logging.getLogger(__name__).warning(
            '%s %s: %d of %d videos of the list are not on disk, scores are over the others',
            dataset, split, missing, total,
        )  # fmt: skip

"""Recognition: videos or pictures that each have one label."""

import collections
import functools
import logging

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading import crops
from rvm_jax.probing.datasets.reading.colors import random_colors
from rvm_jax.probing.datasets.reading.dataset_files import once
from rvm_jax.probing.datasets.reading.images import read_image, read_video
from rvm_jax.probing.datasets.reading.windows import choose_frames


class LabelledVideos:
    """example(index) of items [(path, id, label), ...]; without rng, num_clips examples a video, one after another.

    classes are the names of the labels. In training: a random start, a random crop of an area in crop_area and shape in
    crop_ratio, mirrored half the time if flip is 0.5, random colors if colors. In evaluation: the central square.
    Frames are counted at fps, or at the rate of the file. Videos that are too short repeat their last frame.
    """

    def __init__(self, items, classes, *, num_frames, image_size, stride, fps, num_clips, crop_area, flip, colors):
        self.items, self.classes, self.num_frames = distinct(items), tuple(classes), num_frames
        self._image_size, self._fps, self._num_clips = image_size, fps, num_clips
        self._choose = functools.partial(choose_frames, num_frames=num_frames, stride=stride, num_clips=num_clips)
        self._crop_area, self._flip, self._has_colors = crop_area, flip, colors

    def __len__(self):
        return len(self.items) * self._num_clips

    def example(self, index, rng=None):
        """One clip: id, video_THWC, label. DataError if the video cannot be read."""
        place, clip = divmod(index, self._num_clips)
        path, name, label = self.items[place]
        frames, _ = read_video(path, lambda total: self._choose(rng, total, clip=clip), self._fps)
        size = frames[0].shape[:2]
        if rng is None:
            crop = crops.central(*size)
        else:
            crop = crops.drawn(rng, *size, self._crop_area, flip=self._flip)
        video_THWC = crop.frames(frames, self._image_size)
        if rng is not None and self._has_colors:
            video_THWC = random_colors(rng, video_THWC)
        return {'id': name, 'video_THWC': video_THWC, 'label': np.int32(label)}


class LabelledImages:
    """example(index) of pictures [(path, id, label), ...], each a video of one frame, or of `repeat` equal ones.

    Equal frames are for models of videos; `tasks.recognition` says how their features are read.
    In training: a random crop, mirrored half the time. In evaluation: the central square of a picture whose shorter
    side was made resize_to pixels.
    """

    def __init__(self, items, classes, *, image_size, resize_to, crop_area, flip, repeat):
        if image_size > resize_to:
            raise UserError(
                f'image_size {image_size}', f'is more than resize_to, {resize_to}', 'choose a larger resize_to'
            )
        self.items, self.classes, self.num_frames = distinct(items), tuple(classes), repeat
        self._image_size, self._fraction = image_size, image_size / resize_to
        self._crop_area, self._flip = crop_area, flip

    def __len__(self):
        return len(self.items)

    def example(self, index, rng=None):
        """One picture: id, video_THWC, label. DataError if it cannot be read."""
        path, name, label = self.items[index]
        frame_HWC = read_image(path)
        size = frame_HWC.shape[:2]
        if rng is None:
            crop = crops.central(*size, self._fraction)
        else:
            crop = crops.drawn(rng, *size, self._crop_area, flip=self._flip)
        video_THWC = np.repeat(crop.frames([frame_HWC], self._image_size), self.num_frames, axis=0)
        return {'id': name, 'video_THWC': video_THWC, 'label': np.int32(label)}


def distinct(items):
    """Items, each once; an id that an earlier one has, too, gets a number.

    Scores average what shares an id, so that must be clips of one video and no others.
    """
    named, seen = [], collections.Counter()
    for path, name, label in once(items):
        seen[name] += 1
        named.append((path, name if seen[name] == 1 else f'{name} #{seen[name]}', label))
    return named


def say_missing(dataset, split, missing, total):
    """Say once how many videos of a list are not on disk; some of those on the web always are gone."""
    if missing:
        logging.getLogger(__name__).warning(
            '%s %s: %d of %d videos of the list are not on disk, scores are over the others',
            dataset, split, missing, total,
        )  # fmt: skip

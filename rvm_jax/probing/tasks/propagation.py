"""Labels of the first frame carried through a video without training: DAVIS, JHMDB, VIP, and how long it lasts.

A task here is an `interfaces.PropagationTask`. Its `features` argument is a function from frames (uint8 HWC, resized to
the task's size) to what `label_propagation` takes: (h, w, D) for each frame, L2-normalized; see `patch_features`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from rvm_jax import inference
from rvm_jax.errors import UserError
from rvm_jax.probing import label_maps, label_propagation
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames
from rvm_jax.probing.interfaces import PropagationTask
from rvm_jax.probing.metrics import keypoints, segmentation

Features = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
Task = TypeVar('Task', bound=PropagationTask)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers of the protocol. Frames of any shape are resized to size (height, width); radius is in cells."""

    size: tuple
    top_k: int = 7
    temperature: float = 0.7
    num_context: int = 20
    radius: float = 20
    restrict: bool = True

    def propagate(
        self, frames: Iterable[np.ndarray], features: Features, make_labels: Callable[[tuple[int, int]], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Yield soft labels (h, w, K) of each frame; make_labels(grid) gives the labels of the first one."""
        settings = dataclasses.asdict(self)
        size = settings.pop('size')
        first_hwD, grids = _peek(features(_resized(frame_HWC, size) for frame_HWC in frames))
        yield from label_propagation.stream(grids, make_labels(first_hwD.shape[:2]), **settings)


DAVIS = Settings((480, 880))
JHMDB = Settings((320, 320))
VIP = Settings((448, 880), top_k=10)


@dataclasses.dataclass(frozen=True)
class ObjectMasks:
    """DAVIS: each object of the first mask, scored by J and F in all frames but the first and the last."""

    settings: Settings = DAVIS

    def predict(self, video: LabelledFrames, features: Features) -> Iterator[np.ndarray]:
        """Yield the mask (H, W) uint8 of each frame, at its own size."""
        return _masks(video, video.truth(0), self.settings, features)

    def measure(self, predictions: Iterator[Any], video: LabelledFrames) -> dict[str, np.ndarray]:
        """j_TQ, f_TQ, and largest_T: the number of the last object that each frame shows."""
        return _object_record(predictions, video, video.num_frames)

    def scores(self, records: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{'J', 'F', 'J&F'}: means over all objects of all videos, in [0, 1]."""
        return _pooled(records)


@dataclasses.dataclass(frozen=True)
class Stability:
    """DAVIS for longer and longer: the score of the first n frames relative to that of the shortest n.

    Only videos with more frames than the largest n count, and only their first n frames. The paper does not define the
    score at n; ours is the score of the video cut to n frames.
    """

    settings: Settings = DAVIS
    lengths: tuple = (16, 32, 48, 64, 80)

    def predict(self, video: LabelledFrames, features: Features) -> Iterator[np.ndarray]:
        """Yield the mask (H, W) uint8 of each frame that counts; nothing if the video is too short."""
        frames = max(self.lengths) if video.num_frames > max(self.lengths) else 0
        return itertools.islice(ObjectMasks(self.settings).predict(video, features), frames)

    def measure(self, predictions: Iterator[Any], video: LabelledFrames) -> dict[str, np.ndarray]:
        """As `ObjectMasks`, for the frames that count; nothing if the video is too short."""
        if video.num_frames <= max(self.lengths):
            return {}
        return _object_record(predictions, video, max(self.lengths))

    def scores(self, records: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{'J&F_<n>'} in [0, 1], {'stability_<n>'} relative to the first n, and the last one again as 'stability'.

        Raises UserError if all videos are too short.
        """
        records = [record for record in records if record]
        if not records:
            reason = f'must have more than {max(self.lengths)} frames, and none has'
            raise UserError('videos for stability', reason, 'give longer videos, or shorter lengths')
        scores = {n: _pooled([_cut(record, n) for record in records])['J&F'] for n in self.lengths}
        first = scores[self.lengths[0]] or float('nan')  # a ratio to 0 is not defined
        relative = {n: score / first for n, score in scores.items()}
        named = {f'J&F_{n}': score for n, score in scores.items()}
        named |= {f'stability_{n}': ratio for n, ratio in relative.items()}
        return named | {'stability': relative[self.lengths[-1]]}


@dataclasses.dataclass(frozen=True)
class PartMasks:
    """VIP: one mean IoU over the classes, from all pixels of all frames, including the first."""

    settings: Settings = VIP
    num_classes: int = 20

    def predict(self, video: LabelledFrames, features: Features) -> Iterator[np.ndarray]:
        """Yield the class (H, W) uint8 of each pixel; what is not a class in the first frame counts as background."""
        first_HW = video.truth(0)
        return _masks(video, np.where(first_HW < self.num_classes, first_HW, 0), self.settings, features)

    def measure(self, predictions: Iterator[Any], video: LabelledFrames) -> dict[str, np.ndarray]:
        """confusion_KK of a video."""
        pairs = _with_truth(predictions, video)
        counts = [segmentation.confusion(found_HW, truth_HW, self.num_classes) for found_HW, truth_HW in pairs]
        return {'confusion_KK': np.sum(counts, axis=0)}

    def scores(self, records: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{'miou'} in [0, 1]."""
        return {'miou': segmentation.mean_iou(sum(record['confusion_KK'] for record in records))}


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """JHMDB: the percentage of joints found within a tenth of a body, and within wider circles."""

    settings: Settings = JHMDB
    thresholds: tuple = keypoints.THRESHOLDS

    def predict(self, video: LabelledFrames, features: Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (points_Q2 in pixels, visible_Q) of each frame."""
        first_HWC, frames = _peek(video.frames())
        size = first_HWC.shape[:2]
        make_labels = functools.partial(label_maps.keypoints_to_labels, video.truth(0), size)
        for labels_hwK in self.settings.propagate(frames, features, make_labels):
            yield label_maps.labels_to_keypoints(labels_hwK, size)

    def measure(self, predictions: Iterator[Any], video: LabelledFrames) -> dict[str, np.ndarray]:
        """predicted_TQ2, truth_TQ2, and visible_TQ, which says which predictions exist."""
        pairs = list(_with_truth(predictions, video))
        points_TQ2, visible_TQ = (np.stack([found[part] for found, _ in pairs]) for part in (0, 1))
        truth_TQ2 = np.stack([truth_Q2 for _, truth_Q2 in pairs])
        return {'predicted_TQ2': points_TQ2, 'truth_TQ2': truth_TQ2, 'visible_TQ': visible_TQ}

    def scores(self, records: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{'pck_<threshold>'} in percent."""
        videos = [(record['predicted_TQ2'], record['truth_TQ2'], record['visible_TQ']) for record in records]
        return {f'pck_{threshold}': share for threshold, share in keypoints.pck(videos, self.thresholds).items()}


def fitted(task: Task, patch_size: int) -> Task:
    """The task with the nearest frame size that is a whole number of patches (our choice).

    The published sizes fit patches of 16 pixels. With other patches, part of a frame would not be seen, and labels
    would not match the features. Results name the size of the protocol, not the fitted one, so that models compare.
    """
    size = tuple(max(round(side / patch_size), 1) * patch_size for side in task.settings.size)
    changed: Any = dataclasses.replace(task.settings, size=size)
    return dataclasses.replace(task, settings=changed)  # type: ignore[type-var]  # a Protocol cannot say dataclass


def patch_features(model: Any, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the L2-normalized features (h, w, D) of a model's patches, frame by frame (uint8 HWC).

    Pixels at the right and at the bottom that do not fill a patch are cut off, as by the patch embedding.
    """
    first_HWC, frames = _peek(frames)
    patch = model.patch_size
    grid = first_HWC.shape[0] // patch, first_HWC.shape[1] // patch
    whole = (frame_HWC[: grid[0] * patch, : grid[1] * patch] for frame_HWC in frames)
    for features_TMD in inference.encode_stream(model, whole):
        for features_hwD in inference.patch_grid(features_TMD, grid, model.num_prefix_tokens):
            length = np.linalg.norm(features_hwD, axis=-1, keepdims=True)
            yield features_hwD / np.maximum(length, np.finfo(np.float32).tiny)


def _masks(video, first_HW, settings, features):
    """Yield the mask of each frame; first_HW is given."""
    values = np.empty(0, np.uint8)  # `make_labels` sets them before the first labels arrive

    def make_labels(grid):
        nonlocal values
        labels_hwK, values = label_maps.mask_to_labels(first_HW, settings.size, grid)
        return labels_hwK

    for labels_hwK in settings.propagate(video.frames(), features, make_labels):
        yield label_maps.labels_to_mask(labels_hwK, values, settings.size, first_HW.shape)


def _resized(frame_HWC, size):
    return np.asarray(Image.fromarray(frame_HWC).resize(size[::-1], Image.Resampling.LANCZOS))


def _peek(items):
    """The first item, and all of them."""
    items = iter(items)
    first = next(items)
    return first, itertools.chain([first], items)


def _with_truth(predictions, video):
    """Yield (prediction, truth) of each frame."""
    for t, predicted in enumerate(predictions):
        yield predicted, video.truth(t)


def _object_record(predictions, video, num_frames):
    pairs = _with_truth(itertools.islice(predictions, num_frames), video)
    predicted_THW, truth_THW = (np.stack(part) for part in zip(*pairs, strict=True))
    j_TQ, f_TQ = segmentation.frame_scores(predicted_THW, truth_THW)
    return {'j_TQ': j_TQ, 'f_TQ': f_TQ, 'largest_T': truth_THW.max(axis=(1, 2))}


def _cut(record, num_frames):
    """The record of a video's first frames, from that of the whole video."""
    largest_T = record['largest_T'][:num_frames]
    num_objects = int(largest_T.max())
    j_TQ, f_TQ = (record[name][:num_frames, :num_objects] for name in ('j_TQ', 'f_TQ'))
    return {'j_TQ': j_TQ, 'f_TQ': f_TQ, 'largest_T': largest_T}


def _pooled(records):
    return segmentation.pooled([segmentation.object_means(record['j_TQ'], record['f_TQ']) for record in records])

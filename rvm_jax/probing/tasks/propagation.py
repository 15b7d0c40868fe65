"""Labels of the first frame carried through a video without training: DAVIS, JHMDB, VIP, and how long it lasts.

A task here has `predict(video, features)`, labels frame by frame; `measure(predictions, video)`, the {name: array}
that are kept of a video; and `scores(records)` over all of them. features is a function from frames (uint8 HWC,
resized to the task's size) to what `label_propagation` takes: (h, w, D) for each, L2-normalized; see `patch_features`.
"""

import dataclasses
import functools
import itertools
from typing import ClassVar

import numpy as np
from PIL import Image

from rvm_jax import inference
from rvm_jax.errors import UserError
from rvm_jax.probing import label_maps, label_propagation
from rvm_jax.probing.metrics import keypoints, segmentation


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers of the protocol. Frames are resized to size (height, width) whatever their shape; radius is in cells."""

    size: tuple
    top_k: int = 7
    temperature: float = 0.7
    num_context: int = 20
    radius: float = 20
    restrict: bool = True

    def propagate(self, frames, features, make_labels):
        """Yield soft labels (h, w, K) of each frame; make_labels(grid) gives those of the first."""
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
    metric: ClassVar[str] = 'J&F'
    higher_is_better: ClassVar[bool] = True

    def predict(self, video, features):
        """Yield the mask (H, W) uint8 of each frame, at its own size."""
        return _masks(video, video.truth(0), self.settings, features)

    def measure(self, predictions, video):
        """j_TQ, f_TQ, and largest_T: the number of the last object that each frame shows."""
        return _object_record(predictions, video, video.num_frames)

    def scores(self, records):
        """{'J', 'F', 'J&F'}: means over all objects of all videos, in [0, 1]."""
        return _pooled(records)


@dataclasses.dataclass(frozen=True)
class Stability:
    """DAVIS for longer and longer: the score of the first n frames relative to that of the shortest n.

    Videos with more frames than the largest n count; the others, and what comes later, are not looked at. The paper
    does not say what a score at n is: ours is that of the video cut to n frames.
    """

    settings: Settings = DAVIS
    lengths: tuple = (16, 32, 48, 64, 80)
    metric: ClassVar[str] = 'stability'
    higher_is_better: ClassVar[bool] = True

    def predict(self, video, features):
        """Yield the mask (H, W) uint8 of each frame that counts; nothing for a video that is too short."""
        frames = max(self.lengths) if video.num_frames > max(self.lengths) else 0
        return itertools.islice(ObjectMasks(self.settings).predict(video, features), frames)

    def measure(self, predictions, video):
        """As of ObjectMasks, for the frames that count; nothing for a video that is too short."""
        if video.num_frames <= max(self.lengths):
            return {}
        return _object_record(predictions, video, max(self.lengths))

    def scores(self, records):
        """{'J&F_<n>'} in [0, 1], {'stability_<n>'} relative to the first n, and the last of these as 'stability'.

        Raises UserError if all videos are too short.
        """
        records = [record for record in records if record]
        if not records:
            reason = f'none has more than {max(self.lengths)} frames'
            raise UserError('videos for stability', reason, 'give longer videos, or shorter lengths')
        scores = {n: _pooled([_cut(record, n) for record in records])['J&F'] for n in self.lengths}
        first = scores[self.lengths[0]] or float('nan')  # nothing is relative to nothing
        relative = {n: score / first for n, score in scores.items()}
        named = {f'J&F_{n}': score for n, score in scores.items()}
        named |= {f'stability_{n}': ratio for n, ratio in relative.items()}
        return named | {'stability': relative[self.lengths[-1]]}


@dataclasses.dataclass(frozen=True)
class PartMasks:
    """VIP: one mean IoU over the classes, from all pixels of all frames, the first one included."""

    settings: Settings = VIP
    num_classes: int = 20
    metric: ClassVar[str] = 'miou'
    higher_is_better: ClassVar[bool] = True

    def predict(self, video, features):
        """Yield the class (H, W) uint8 of each pixel; what is no class in the first frame is taken for background."""
        first_HW = video.truth(0)
        return _masks(video, np.where(first_HW < self.num_classes, first_HW, 0), self.settings, features)

    def measure(self, predictions, video):
        """confusion_KK of a video."""
        pairs = _with_truth(predictions, video)
        counts = (segmentation.confusion(found_HW, truth_HW, self.num_classes) for found_HW, truth_HW in pairs)
        return {'confusion_KK': sum(counts)}

    def scores(self, records):
        """{'miou'} in [0, 1]."""
        return {'miou': segmentation.mean_iou(sum(record['confusion_KK'] for record in records))}


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """JHMDB: joints, scored by the percent that is found within a tenth of a body, and within wider circles."""

    settings: Settings = JHMDB
    thresholds: tuple = keypoints.THRESHOLDS
    metric: ClassVar[str] = 'pck_0.1'
    higher_is_better: ClassVar[bool] = True

    def predict(self, video, features):
        """Yield (points_Q2 in pixels, visible_Q) of each frame."""
        first_HWC, frames = _peek(video.frames())
        size = first_HWC.shape[:2]
        make_labels = functools.partial(label_maps.keypoints_to_labels, video.truth(0), size)
        for labels_hwK in self.settings.propagate(frames, features, make_labels):
            yield label_maps.labels_to_keypoints(labels_hwK, size)

    def measure(self, predictions, video):
        """predicted_TQ2, truth_TQ2, and visible_TQ: which predictions exist."""
        pairs = list(_with_truth(predictions, video))
        points_TQ2, visible_TQ = (np.stack([found[part] for found, _ in pairs]) for part in (0, 1))
        truth_TQ2 = np.stack([truth_Q2 for _, truth_Q2 in pairs])
        return {'predicted_TQ2': points_TQ2, 'truth_TQ2': truth_TQ2, 'visible_TQ': visible_TQ}

    def scores(self, records):
        """{'pck_<threshold>'} in percent."""
        videos = [(record['predicted_TQ2'], record['truth_TQ2'], record['visible_TQ']) for record in records]
        return {f'pck_{threshold}': share for threshold, share in keypoints.pck(videos, self.thresholds).items()}


def fitted(task, patch_size):
    """The task with frames of the nearest size of whole patches.

    Published for patches of 16 pixels. Of others a part of a patch would not be seen, and labels would not lie where
    the features do (ours). Results name the size before, which is the protocol's, so that models compare.
    """
    size = tuple(max(round(side / patch_size), 1) * patch_size for side in task.settings.size)
    return dataclasses.replace(task, settings=dataclasses.replace(task.settings, size=size))


def patch_features(model, frames):
    """Yield the features (h, w, D) of a model's patches, L2-normalized, of frames (uint8 HWC) as they come.

    What is left of a frame at the right and at the bottom after whole patches is not seen, as by the patch embedding.
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
    values = None

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

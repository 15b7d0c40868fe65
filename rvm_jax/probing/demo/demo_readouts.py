"""The tasks of the demo suite that have a readout: each goes from features and truth to scores and pictures.

Every readout except one is a ridge regression (`linear_probe`), the same for every backbone, so that no training
schedule influences the scores. Published readouts are trained for tens of thousands of steps; `attentive_motion` is a
small one of them with two thousand. Points and boxes are predicted as displacements from frame 0, so a readout that
learned nothing predicts no motion.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from einops import rearrange, reduce, repeat

from rvm_jax.probing import drawing, feature_batches, train_readout
from rvm_jax.probing.demo import linear_probe
from rvm_jax.probing.metrics import depth as depth_metrics
from rvm_jax.probing.metrics import recognition, segmentation
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.losses import scores_of
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.synthetic.scenes import CLASSES

GRID = 8  # patches on a side of a clip
POOLED = 4  # cells on a side to which the last frame is averaged, for tasks about the whole clip
FIRST_FRAME = 4  # the first frame where the noise square is looked for, as in the figure of the paper
DEPTH_CLIPS = 1024  # clips for training depth: their patches are enough
PICTURED = 2  # clips of each task
CLIPS_AT_ONCE = 16  # clips whose features are computed together
VECTORS_AT_ONCE = 256  # clips whose vectors are built together
WIDTH = 128  # wider features are projected at random to this width
Result = tuple[dict[str, float], Iterable[Any]]  # scores, and pictures to write
ATTENTIVE = Recognition(num_classes=len(CLASSES), channels=64, heads=4, streaming=True)
# The loss of our tiny model falls from step 900 on.
SCHEDULE = train_readout.Schedule(steps=2000, batch_size=64, peak_lr=3e-3, warmup=200)


@dataclasses.dataclass(frozen=True)
class Data:
    """Features of one backbone, and the clips they belong to."""

    features_NThwD: np.ndarray
    examples: list[dict[str, Any]]
    truth: dict[str, np.ndarray]  # of all examples, stacked
    source: Any
    view_DK: np.ndarray | None  # the projection of wide features, see `random_view`

    @classmethod
    def of(
        cls, backbone: Any, source: Any, *, like: 'Data | None' = None, done: Callable[[int], None] = lambda count: None
    ) -> 'Data':
        """Compute features, at most WIDTH wide, so that memory and time are bounded for any model.

        like: the Data of the same backbone whose projection is used; without it the first clips define one.
        done(count) is called after each batch of `count` clips.
        """
        ids: list[str] = []
        kept: dict[str, np.ndarray] = {}
        view_DK = like.view_DK if like else None
        for indices in feature_batches.groups(len(source), CLIPS_AT_ONCE):
            some = [source.example(index) for index in indices]
            features_BTMD = np.asarray(backbone.encode(np.stack([example['video_THWC'] for example in some]))[0])
            features_BTMD = features_BTMD[:, :, backbone.num_prefix_tokens :]
            if not ids and like is None:
                view_DK = random_view(features_BTMD)
            if view_DK is not None:
                features_BTMD = features_BTMD @ view_DK
            ids += [example['id'] for example in some]
            for name, array in (feature_batches.stack(some) | {'features': features_BTMD}).items():
                if name not in kept:
                    kept[name] = np.empty((len(source), *array.shape[1:]), array.dtype)
                kept[name][indices] = array
            done(len(some))
        features_NThwD = rearrange(kept.pop('features'), 'n t (h w) d -> n t h w d', h=GRID)
        # Examples are views, because the truth of many large frames takes more memory than the features.
        examples = [{'id': name} | {key: array[index] for key, array in kept.items()} for index, name in enumerate(ids)]
        return cls(features_NThwD, examples, kept, source, view_DK)

    @functools.cached_property
    def clip_vectors(self) -> np.ndarray:
        """The patches of the last frame, averaged to a coarse grid and concatenated: (N, F)."""
        return _coarse(self.features_NThwD)

    @functools.cached_property
    def clip_ridge(self) -> linear_probe.Ridge:
        """The Ridge of these vectors, which motion and camera share."""
        return linear_probe.Ridge(self.clip_vectors)

    def drawn(self, predictions: list[dict[str, np.ndarray]]) -> Iterator[Any]:
        """Pictures of the first clips with their predictions."""
        for index in range(min(PICTURED, len(predictions))):
            example = self.source.example(index)
            yield drawing.picture(example['video_THWC'], predictions[index], example, CLASSES)


class LastFrames:
    """The last frames of Data with their labels, in place of `feature_batches.Batches`."""

    num_frames = 1

    def __init__(self, data: Data) -> None:
        self.width = data.features_NThwD.shape[-1]
        self.failed: dict[int, str] = {}
        self._features_NTMD = rearrange(data.features_NThwD[:, -1:], 'n t h w d -> n t (h w) d')
        self._labels_N, self._examples = data.truth['label'], data.examples

    def training(
        self, *, batch_size: int, steps: int, start: int, seed: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[jax.Array, dict[str, jax.Array]]]:
        """Yield (features_BTMD, batch) for the steps after `start`."""
        for first in range(start * batch_size, steps * batch_size, batch_size):
            items = range(first, first + batch_size)
            yield self._batch([feature_batches.drawn(seed, item, len(self._labels_N)) for item in items], mesh)

    def evaluation(
        self, *, batch_size: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[jax.Array, dict[str, jax.Array], list[dict]]]:
        """Yield (features_BTMD, batch, its examples), every example once; the last batch is padded."""
        for indices in feature_batches.groups(len(self._labels_N), batch_size):
            filled = indices + indices[-1:] * (batch_size - len(indices))
            yield *self._batch(filled, mesh), [self._examples[index] for index in indices]

    def _batch(self, indices, mesh):
        return feature_batches.place((self._features_NTMD[indices], {'label': self._labels_N[indices]}), mesh)


def random_view(features_BTMD: np.ndarray) -> np.ndarray | None:
    """The projection (D, WIDTH) of features that are wider than WIDTH; None for others.

    Each feature is divided by its standard deviation (a few are often far larger than the others), then all are
    projected on WIDTH random orthonormal axes. The axes only depend on D, so they are the same for a model, its image
    encoder and random weights.
    """
    width = features_BTMD.shape[-1]
    if width <= WIDTH:
        return None
    axes_DK = np.linalg.qr(np.random.default_rng(width).normal(size=(width, WIDTH)))[0]
    deviation_D = features_BTMD.std((0, 1, 2))
    # Features that hardly change in the first clips may change later, so they must not be scaled up too far.
    return (axes_DK / (deviation_D + 0.01 * deviation_D.mean())[:, None]).astype(np.float32)


def motion(train: Data, held_out: Data) -> Result:
    """Top-1 of the motion class of the nearest object."""
    readout = train.clip_ridge.fit(np.eye(len(CLASSES))[train.truth['label']])
    outputs_NK = readout.predict(held_out.clip_vectors)
    shares_NK = np.exp(8 * outputs_NK) / np.exp(8 * outputs_NK).sum(-1, keepdims=True)  # only for the picture
    scores = {'top1': recognition.top1(outputs_NK, held_out.truth['label'])}
    return scores, held_out.drawn([{'probabilities_K': shares_K} for shares_K in shares_NK])


def attentive_motion(train: Data, held_out: Data, *, seed: int) -> Result:
    """Top-1 of the same classes, from the last frame with the streaming attentive readout, trained by gradient steps.

    It only sees motion that the features carry. Unlike the linear readouts it depends on a seed: two seeds differed by
    0.08 at 0.6. Its schedule was chosen by the held-out score of our tiny model.
    """
    readout, _ = train_readout.train_readout(ATTENTIVE, LastFrames(train), SCHEDULE, seed=seed)
    scores, shown = train_readout.evaluate_readout(
        ATTENTIVE, LastFrames(held_out), readout, batch_size=SCHEDULE.batch_size, shown=range(PICTURED)
    )
    return scores, held_out.drawn([prediction for prediction, _ in shown])


def camera(train: Data, held_out: Data) -> Result:
    """Error of the motion of the frame's corners from one frame to the next, in percent of the side.

    share_of_motion is the error relative to the true motion: a prediction of no motion has 1.
    """
    readout = train.clip_ridge.fit(100 * train.truth['corners_42'].reshape(-1, 8))
    truth_N42 = 100 * held_out.truth['corners_42']
    found_N42 = readout.predict(held_out.clip_vectors).reshape(-1, 4, 2)
    error = float(np.linalg.norm(found_N42 - truth_N42, axis=-1).mean())
    return {'corner_error': error, 'share_of_motion': error / float(np.linalg.norm(truth_N42, axis=-1).mean())}, ()


def points(train: Data, held_out: Data) -> Result:
    """Scores of TAP-Vid for points, from the features of every frame at their first place, and those of the clip.

    share_of_motion is the error relative to a prediction of no motion, because clips move further in a few frames than
    the thresholds of TAP-Vid reach.
    """
    valid_NQ = train.truth['valid_Q']
    tracks_NQT2 = train.truth['tracks_QT2']
    ridge = linear_probe.Ridge(_chosen_vectors(_at_points, train.features_NThwD, tracks_NQT2[:, :, 0], valid_NQ))
    moves_NQT2 = tracks_NQT2 - tracks_NQT2[:, :, :1]
    place = ridge.fit(rearrange(moves_NQT2[valid_NQ], 'p t c -> p (t c)'))
    seen = ridge.fit(train.truth['visible_QT'][valid_NQ])
    predictions = []
    for features_ThwD, tracks_QT2 in zip(held_out.features_NThwD, held_out.truth['tracks_QT2'], strict=True):
        vectors_QF = _at_points(features_ThwD[None], tracks_QT2[None, :, 0])[0]
        moves_QT2 = rearrange(place.predict(vectors_QF), 'q (t c) -> q t c', c=2)
        predictions.append({'tracks_QT2': tracks_QT2[:, :1] + moves_QT2, 'visible_QT': seen.predict(vectors_QF) > 0.5})
    scores = scores_of(Points(), predictions, held_out.examples)
    truth = held_out.truth
    counted_NQT = np.broadcast_to(truth['valid_Q'][..., None], truth['visible_QT'].shape)
    share = _share_of_motion([found['tracks_QT2'] for found in predictions], truth['tracks_QT2'], counted_NQT)
    return scores | {'share_of_motion': share}, held_out.drawn(predictions)


def boxes(train: Data, held_out: Data) -> Result:
    """Mean IoU of boxes, from the features of every frame inside their first box, and those of the clip.

    share_of_motion is the error of their corners relative to a prediction of no motion.
    """
    boxes_NQT4, known_NQT = train.truth['boxes_QT4'], train.truth['known_QT']
    always_NQ = known_NQT.all(-1)
    vectors_PF = _chosen_vectors(_in_boxes, train.features_NThwD, boxes_NQT4[:, :, 0], always_NQ)
    moves_NQT4 = boxes_NQT4 - boxes_NQT4[:, :, :1]
    readout = linear_probe.fit(vectors_PF, rearrange(moves_NQT4[always_NQ], 'p t c -> p (t c)'))
    predictions = []
    for features_ThwD, boxes_QT4 in zip(held_out.features_NThwD, held_out.truth['boxes_QT4'], strict=True):
        vectors_QF = _in_boxes(features_ThwD[None], boxes_QT4[None, :, 0])[0]
        moves_QT4 = rearrange(readout.predict(vectors_QF), 'q (t c) -> q t c', c=4)
        predictions.append({'boxes_QT4': boxes_QT4[:, :1] + moves_QT4})
    scores = scores_of(Boxes(), predictions, held_out.examples)
    found, truth = [found['boxes_QT4'] for found in predictions], held_out.truth
    share = _share_of_motion(found, truth['boxes_QT4'], truth['known_QT'])
    return scores | {'share_of_motion': share}, held_out.drawn(predictions)


def depth(train: Data, held_out: Data) -> Result:
    """AbsRel of depth at every pixel, from the features of its patch; and how often two objects are in order."""
    features_NThwD, depth_NTHW = train.features_NThwD[:DEPTH_CLIPS], train.truth['depth_THW'][:DEPTH_CLIPS]
    patch = depth_NTHW.shape[-1] // GRID
    targets_PK = rearrange(np.log(depth_NTHW), 'n t (h r) (w c) -> (n t h w) (r c)', r=patch, c=patch)
    readout = linear_probe.fit(rearrange(features_NThwD, 'n t h w d -> (n t h w) d'), targets_PK)
    predictions = []
    for features_ThwD in held_out.features_NThwD:
        found_ThwK = readout.predict(rearrange(features_ThwD, 't h w d -> (t h w) d'))
        depth_THW = rearrange(found_ThwK, '(t h w) (r c) -> t (h r) (w c)', h=GRID, w=GRID, r=patch)
        predictions.append({'depth_THW': np.exp(depth_THW)})
    examples = held_out.examples
    scores = scores_of(Depth(image_size=patch * GRID), predictions, examples)
    pairs = [
        depth_metrics.in_order(found['depth_THW'], example['depth_THW'], example['masks_THW'])
        for found, example in zip(predictions, examples, strict=True)
    ]
    return scores | {'in_order': segmentation.nan_mean(pairs)}, held_out.drawn(predictions)


def noise_square(train: Data, held_out: Data) -> Result:
    """Mean IoU of the noise square and of its surroundings, as `find_squares` finds them."""
    truth_NTHW = held_out.truth['masks_THW'][:, FIRST_FRAME:]
    found_NTHW = find_squares(train, held_out)
    drawn = (
        drawing.picture(
            held_out.source.example(index)['video_THWC'][FIRST_FRAME:],
            {'patches_Thw': found_NTHW[index]}, {'masks_THW': truth_NTHW[index]},
        )
        for index in range(PICTURED)
    )  # fmt: skip
    return {'miou': segmentation.mean_iou(segmentation.confusion(found_NTHW, truth_NTHW, 2))}, drawn


def find_squares(train: Data, held_out: Data) -> np.ndarray:
    """1 where a linear readout of each patch sees the noise square, int8 NTHW; without the frames before FIRST_FRAME.

    The threshold is chosen so that in training the predicted square covers as many patches as the true one.
    """

    def vectors(data):
        return rearrange(data.features_NThwD[:, FIRST_FRAME:], 'n t h w d -> (n t h w) d')

    masks_NTHW = train.truth['masks_THW'][:, FIRST_FRAME:].astype(np.float32)
    shares_P1 = reduce(masks_NTHW, 'n t (h r) (w c) -> (n t h w) 1', 'mean', h=GRID, w=GRID)
    readout = linear_probe.fit(vectors(train), shares_P1)
    least = np.quantile(readout.predict(vectors(train)), 1 - shares_P1.mean())
    shape = held_out.features_NThwD[:, FIRST_FRAME:].shape[:4]
    found_NThw = (readout.predict(vectors(held_out)) > least).reshape(shape)
    patch = masks_NTHW.shape[-1] // GRID
    return repeat(found_NThw, 'n t h w -> n t (h r) (w c)', r=patch, c=patch).astype(np.int8)


def _share_of_motion(found_NQTC, truth_NQTC, counted_NQT):
    """Mean distance from the truth, relative to that of a prediction that keeps the places of frame 0."""
    off_NQT = np.linalg.norm(np.stack(found_NQTC) - truth_NQTC, axis=-1)
    moved_NQT = np.linalg.norm(truth_NQTC - truth_NQTC[:, :, :1], axis=-1)
    return float(off_NQT[counted_NQT].mean() / moved_NQT[counted_NQT].mean())


def _coarse(features_NThwD):
    return reduce(features_NThwD[:, -1], 'n (a r) (b c) d -> n (a b d)', 'mean', a=POOLED, b=POOLED)


def _with_clip(found_NQF, features_NThwD, places_NQC):
    """Vectors of each query: its own features, those of the clip, and its place."""
    coarse_NQF = repeat(_coarse(features_NThwD), 'n f -> n q f', q=found_NQF.shape[1])
    return np.concatenate([found_NQF, coarse_NQF, places_NQC], axis=-1, dtype=np.float32)


def _chosen_vectors(make, features_NThwD, places_NQC, chosen_NQ):
    """Vectors (P, F) of the chosen queries, by `_at_points` or `_in_boxes`."""
    return np.concatenate([
        make(features_NThwD[some], places_NQC[some])[chosen_NQ[some]]
        for some in feature_batches.groups(len(features_NThwD), VECTORS_AT_ONCE)
    ])  # fmt: skip


def _at_points(features_NThwD, points_NQ2):
    """Vectors of points (x, y as fractions of the frame): features of every frame, interpolated between patches."""
    places_NQ2 = np.clip(points_NQ2 * GRID - 0.5, 0, GRID - 1)
    low_NQ2 = np.minimum(places_NQ2.astype(int), GRID - 2)
    share_NQ2 = (places_NQ2 - low_NQ2).astype(np.float32)
    clips_NQ = np.arange(len(points_NQ2))[:, None]
    found = 0
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x_NQ, y_NQ = low_NQ2[..., 0] + right, low_NQ2[..., 1] + down
        weight_NQ = (share_NQ2[..., 0] if right else 1 - share_NQ2[..., 0]) * (
            share_NQ2[..., 1] if down else 1 - share_NQ2[..., 1]
        )
        found = found + weight_NQ[..., None, None] * features_NThwD[clips_NQ, :, y_NQ, x_NQ]
    return _with_clip(rearrange(found, 'n q t d -> n q (t d)'), features_NThwD, points_NQ2)


def _in_boxes(features_NThwD, boxes_NQ4):
    """Vectors of boxes (x0, y0, x1, y1 as fractions of the frame): features of every frame, averaged over the box."""
    edges = np.arange(GRID) / GRID

    def covered(low_NQ, high_NQ):
        return np.clip(np.minimum(high_NQ[..., None], edges + 1 / GRID) - np.maximum(low_NQ[..., None], edges), 0, None)

    weights_NQhw = np.einsum(
        'nqh,nqw->nqhw', covered(boxes_NQ4[..., 1], boxes_NQ4[..., 3]), covered(boxes_NQ4[..., 0], boxes_NQ4[..., 2])
    )
    weights_NQhw = weights_NQhw / np.maximum(weights_NQhw.sum((2, 3), keepdims=True), 1e-9)
    weights_NQP = rearrange(weights_NQhw, 'n q h w -> n q (h w)').astype(np.float32)
    patches_NPF = rearrange(features_NThwD, 'n t h w d -> n (h w) (t d)')
    return _with_clip(weights_NQP @ patches_NPF, features_NThwD, boxes_NQ4)

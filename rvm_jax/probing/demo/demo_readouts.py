"""The tasks of the demo suite with a readout: each from features and truth to scores and pictures.

Every readout but one is a ridge regression (`linear_probe`), the same for every backbone: what is measured is what
features say openly, with no schedule between. The published readouts are trained for tens of thousands of steps; one of
them is, small and for two thousand, in `attentive_motion`. Points and boxes are told as displacements from frame 0, so
a readout that learned nothing says that they stay.
"""

import dataclasses
import functools

import numpy as np
from einops import rearrange, reduce, repeat

from rvm_jax.probing import drawing, feature_batches, train_readout
from rvm_jax.probing.demo import linear_probe
from rvm_jax.probing.metrics import depth as depth_metrics
from rvm_jax.probing.metrics import recognition, segmentation
from rvm_jax.probing.tasks.averages import scores_of
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.synthetic.scenes import CLASSES

GRID = 8  # patches on a side of a clip
POOLED = 4  # cells on a side to which the last frame is averaged for what concerns the whole clip
FIRST_FRAME = 4  # in which the noise square is looked for, as in the paper's figure
DEPTH_CLIPS = 1024  # whose patches are enough to learn depth from
PICTURED = 2  # clips of each task
CLIPS_AT_ONCE = 16  # whose features are computed together
VECTORS_AT_ONCE = 256  # clips whose vectors are put together at once
WIDTH = 128  # of features at most; wider ones are seen from a random side
ATTENTIVE = Recognition(num_classes=len(CLASSES), channels=64, heads=4, streaming=True)
SCHEDULE = train_readout.Schedule(
    steps=2000, batch_size=64, peak_lr=3e-3, warmup=200
)  # our tiny model's loss falls from 900 on


@dataclasses.dataclass(frozen=True)
class Data:
    """Features of one backbone and the clips that they are of."""

    features_NThwD: np.ndarray
    examples: list
    truth: dict  # of the examples, stacked
    source: object
    view_DK: np.ndarray | None  # what wide features were multiplied with, see `random_view`

    @classmethod
    def of(cls, backbone, source, *, like=None, done=lambda count: None):
        """Compute them, as wide as WIDTH at most, so that what is kept and solved is bounded for any model.

        like: the Data of the same backbone whose view is taken over; without one it is that of the first clips.
        done(count) is called after each batch of so many clips.
        """
        ids, kept, view_DK = [], {}, like.view_DK if like else None
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
        # Examples are views, for the truth of many large frames is larger than the features.
        examples = [{'id': name} | {key: array[index] for key, array in kept.items()} for index, name in enumerate(ids)]
        return cls(features_NThwD, examples, kept, source, view_DK)

    @functools.cached_property
    def clip_vectors(self):
        """The last frame's patches, averaged to a coarse grid, side by side: (N, F)."""
        return _coarse(self.features_NThwD)

    @functools.cached_property
    def clip_ridge(self):
        """What is fitted to them: motion and camera share it."""
        return linear_probe.Ridge(self.clip_vectors)

    def drawn(self, predictions):
        """LazyFrames of the first clips with their predictions."""
        for index in range(min(PICTURED, len(predictions))):
            example = self.source.example(index)
            yield drawing.picture(example['video_THWC'], predictions[index], example, CLASSES)


class LastFrames:
    """The last frames of Data with their labels, as `batches.Batches` gives them to a readout."""

    num_frames = 1

    def __init__(self, data):
        self.width, self.failed = data.features_NThwD.shape[-1], {}
        self._features_NTMD = rearrange(data.features_NThwD[:, -1:], 'n t h w d -> n t (h w) d')
        self._labels_N, self._examples = data.truth['label'], data.examples

    def training(self, *, batch_size, steps, start, seed, mesh):
        """Yield (features_BTMD, batch) for the steps after `start`."""
        for first in range(start * batch_size, steps * batch_size, batch_size):
            items = range(first, first + batch_size)
            yield self._batch([feature_batches.drawn(seed, item, len(self._labels_N)) for item in items], mesh)

    def evaluation(self, *, batch_size, mesh):
        """Yield (features_BTMD, batch, its examples) once over; the last batch is filled up."""
        for indices in feature_batches.groups(len(self._labels_N), batch_size):
            filled = indices + indices[-1:] * (batch_size - len(indices))
            yield *self._batch(filled, mesh), [self._examples[index] for index in indices]

    def _batch(self, indices, mesh):
        return feature_batches.place((self._features_NTMD[indices], {'label': self._labels_N[indices]}), mesh)


def random_view(features_BTMD):
    """(D, WIDTH) by which features wider than WIDTH are seen; None if they are not.

    Each feature is divided by its deviation (a few are often far larger than the others), then all are projected on
    WIDTH random orthonormal axes, which are a function of D alone: the same for a model, its image encoder and random
    weights.
    """
    width = features_BTMD.shape[-1]
    if width <= WIDTH:
        return None
    axes_DK = np.linalg.qr(np.random.default_rng(width).normal(size=(width, WIDTH)))[0]
    deviation_D = features_BTMD.std((0, 1, 2))
    # What hardly changes in a few clips may do so later, and is not blown up.
    return (axes_DK / (deviation_D + 0.01 * deviation_D.mean())[:, None]).astype(np.float32)


def motion(train, held_out):
    """Top-1 of the motion class of the nearest object."""
    readout = train.clip_ridge.fit(np.eye(len(CLASSES))[train.truth['label']])
    outputs_NK = readout.predict(held_out.clip_vectors)
    shares_NK = np.exp(8 * outputs_NK) / np.exp(8 * outputs_NK).sum(-1, keepdims=True)  # for the picture alone
    scores = {'top1': recognition.top1(outputs_NK, held_out.truth['label'])}
    return scores, held_out.drawn([{'probabilities_K': shares_K} for shares_K in shares_NK])


def attentive_motion(train, held_out, *, seed):
    """Top-1 of the same, from the last frame by the attentive readout of streaming features, with gradient steps.

    What is between frames is seen only where features carry it. Unlike the linear ones this readout has a seed; two of
    them differed by 0.08 at 0.6. Its schedule was chosen by the held-out score of our tiny model.
    """
    readout, _ = train_readout.train_readout(ATTENTIVE, LastFrames(train), SCHEDULE, seed=seed)
    scores, shown = train_readout.evaluate_readout(
        ATTENTIVE, LastFrames(held_out), readout, batch_size=SCHEDULE.batch_size, shown=range(PICTURED)
    )
    return scores, held_out.drawn([prediction for prediction, _ in shown])


def camera(train, held_out):
    """How far off the motion of the frame's corners from a frame to the next is, in percent of the side.

    share_of_motion is that relative to the true motion: 1 is what a camera that stands still would give.
    """
    readout = train.clip_ridge.fit(100 * train.truth['corners_42'].reshape(-1, 8))
    truth_N42 = 100 * held_out.truth['corners_42']
    found_N42 = readout.predict(held_out.clip_vectors).reshape(-1, 4, 2)
    error = float(np.linalg.norm(found_N42 - truth_N42, axis=-1).mean())
    return {'corner_error': error, 'share_of_motion': error / float(np.linalg.norm(truth_N42, axis=-1).mean())}, ()


def points(train, held_out):
    """Points, from the features at their first place in every frame, and those of the clip: scores of TAP-Vid.

    And share_of_motion, how far off they are relative to points that stay: clips move further in a few frames than the
    thresholds of TAP-Vid reach.
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


def boxes(train, held_out):
    """Mean IoU of boxes, from the features inside their first box in every frame, and those of the clip.

    And share_of_motion, how far off their corners are relative to boxes that stay.
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


def depth(train, held_out):
    """AbsRel of log depth at every pixel, from the features of its patch; and how often two objects are in order."""
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


def noise_square(train, held_out):
    """Mean IoU of the noise square and of what is around it, patch by patch; frames before FIRST_FRAME do not count.

    As many patches are called the square as it covers, in training.
    """

    def vectors(data):
        return rearrange(data.features_NThwD[:, FIRST_FRAME:], 'n t h w d -> (n t h w) d')

    masks_NTHW = train.truth['masks_THW'][:, FIRST_FRAME:].astype(np.float32)
    shares_P1 = reduce(masks_NTHW, 'n t (h r) (w c) -> (n t h w) 1', 'mean', h=GRID, w=GRID)
    readout = linear_probe.fit(vectors(train), shares_P1)
    least = np.quantile(readout.predict(vectors(train)), 1 - shares_P1.mean())
    truth_NTHW = held_out.truth['masks_THW'][:, FIRST_FRAME:]
    shape = held_out.features_NThwD[:, FIRST_FRAME:].shape[:4]
    found_NThw = (readout.predict(vectors(held_out)) > least).reshape(shape)
    patch = truth_NTHW.shape[-1] // GRID
    found_NTHW = repeat(found_NThw, 'n t h w -> n t (h r) (w c)', r=patch, c=patch).astype(np.int8)
    drawn = (
        drawing.picture(
            held_out.source.example(index)['video_THWC'][FIRST_FRAME:],
            {'patches_Thw': found_NTHW[index]}, {'masks_THW': truth_NTHW[index]},
        )
        for index in range(PICTURED)
    )  # fmt: skip
    return {'miou': segmentation.mean_iou(segmentation.confusion(found_NTHW, truth_NTHW, 2))}, drawn


def _share_of_motion(found_NQTC, truth_NQTC, counted_NQT):
    """Mean distance from the truth relative to that of what stays where it is in frame 0."""
    off_NQT = np.linalg.norm(np.stack(found_NQTC) - truth_NQTC, axis=-1)
    moved_NQT = np.linalg.norm(truth_NQTC - truth_NQTC[:, :, :1], axis=-1)
    return float(off_NQT[counted_NQT].mean() / moved_NQT[counted_NQT].mean())


def _coarse(features_NThwD):
    return reduce(features_NThwD[:, -1], 'n (a r) (b c) d -> n (a b d)', 'mean', a=POOLED, b=POOLED)


def _with_clip(found_NQF, features_NThwD, places_NQC):
    """Vectors of each query: its own features, those of the clip, and where it is."""
    coarse_NQF = repeat(_coarse(features_NThwD), 'n f -> n q f', q=found_NQF.shape[1])
    return np.concatenate([found_NQF, coarse_NQF, places_NQC], axis=-1, dtype=np.float32)


def _chosen_vectors(make, features_NThwD, places_NQC, chosen_NQ):
    """Vectors (P, F) of the chosen queries, by `_at_points` or `_in_boxes`."""
    return np.concatenate([
        make(features_NThwD[some], places_NQC[some])[chosen_NQ[some]]
        for some in feature_batches.groups(len(features_NThwD), VECTORS_AT_ONCE)
    ])  # fmt: skip


def _at_points(features_NThwD, points_NQ2):
    """Vectors of points (x, y as fractions of the frame): features of every frame there, between patch centers."""
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
    """Vectors of boxes (x0, y0, x1, y1 as fractions of the frame): features of every frame averaged over them."""
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

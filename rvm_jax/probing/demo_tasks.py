"""The tasks of the demo suite that are read out linearly: each from features and truth to scores and pictures.

Every readout is a ridge regression (`linear_probe`), the same for every backbone: what is measured is what features say
openly, with no schedule between. Points and boxes are told as displacements from frame 0, so a readout that learned
nothing says that they stay.
"""

import dataclasses

import numpy as np
from einops import rearrange, reduce, repeat

from rvm_jax.data.sources.synthetic_scenes import CLASSES
from rvm_jax.probing import batches, linear_probe, pictures
from rvm_jax.probing.metrics import depth as depth_metrics
from rvm_jax.probing.metrics import recognition, segmentation
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points

GRID = 8  # patches on a side of a clip
POOLED = 4  # cells on a side to which the last frame is averaged for what concerns the whole clip
FIRST_FRAME = 4  # in which the noise square is looked for, as in the paper's figure
DEPTH_CLIPS = 1024  # whose patches are enough to learn depth from
PICTURED = 2  # clips of each task
CLIPS_AT_ONCE = 16  # whose features are computed together


@dataclasses.dataclass(frozen=True)
class Data:
    """Features of one backbone, (N, T, M, D), and the clips that they are of."""

    features_NThwD: np.ndarray
    examples: list
    truth: dict  # of the examples, stacked
    source: object

    @classmethod
    def of(cls, backbone, source):
        """Compute them."""
        features, examples = [], []
        for indices in batches.groups(len(source), CLIPS_AT_ONCE):
            some = [source.example(index) for index in indices]
            features_BTMD = np.asarray(backbone.encode(np.stack([example['video_THWC'] for example in some]))[0])
            features.append(features_BTMD[:, :, backbone.num_prefix_tokens :])
            examples += [batches.without_video(example) for example in some]
        features_NThwD = rearrange(np.concatenate(features), 'n t (h w) d -> n t h w d', h=GRID)
        return cls(features_NThwD, examples, batches.stack(examples), source)

    def drawn(self, predictions):
        """Pictures of the first clips with their predictions."""
        for index in range(min(PICTURED, len(predictions))):
            example = self.source.example(index)
            yield pictures.picture(example['video_THWC'], predictions[index], example, CLASSES)


def motion(train, held_out):
    """Top-1 of the motion class of the nearest object."""
    readout = linear_probe.fit(_clip_vectors(train), np.eye(len(CLASSES))[train.truth['label']])
    outputs_NK = readout.predict(_clip_vectors(held_out))
    shares_NK = np.exp(8 * outputs_NK) / np.exp(8 * outputs_NK).sum(-1, keepdims=True)  # for the picture alone
    scores = {'top1': recognition.top1(outputs_NK, held_out.truth['label'])}
    return scores, held_out.drawn([{'probabilities_K': shares_K} for shares_K in shares_NK])


def camera(train, held_out):
    """How far off the motion of the frame's corners from a frame to the next is, in percent of the side.

    share_of_motion is that relative to the true motion: 1 is what a camera that stands still would give.
    """
    readout = linear_probe.fit(_clip_vectors(train), 100 * train.truth['corners_42'].reshape(-1, 8))
    truth_N42 = 100 * held_out.truth['corners_42']
    found_N42 = readout.predict(_clip_vectors(held_out)).reshape(-1, 4, 2)
    error = float(np.linalg.norm(found_N42 - truth_N42, axis=-1).mean())
    return {'corner_error': error, 'share_of_motion': error / float(np.linalg.norm(truth_N42, axis=-1).mean())}, ()


def points(train, held_out):
    """Points, from the features at their first place in every frame, and those of the clip: scores of TAP-Vid.

    And share_of_motion, how far off they are relative to points that stay: clips move further in a few frames than the
    thresholds of TAP-Vid reach.
    """
    valid_NQ = train.truth['valid_Q']
    tracks_NQT2 = train.truth['tracks_QT2']
    vectors_NQF = _at_points(train.features_NThwD, tracks_NQT2[:, :, 0])
    moves_NQT2 = tracks_NQT2 - tracks_NQT2[:, :, :1]
    place = linear_probe.fit(vectors_NQF[valid_NQ], rearrange(moves_NQT2[valid_NQ], 'p t c -> p (t c)'))
    seen = linear_probe.fit(vectors_NQF[valid_NQ], train.truth['visible_QT'][valid_NQ])
    predictions = []
    for features_ThwD, tracks_QT2 in zip(held_out.features_NThwD, held_out.truth['tracks_QT2'], strict=True):
        vectors_QF = _at_points(features_ThwD[None], tracks_QT2[None, :, 0])[0]
        moves_QT2 = rearrange(place.predict(vectors_QF), 'q (t c) -> q t c', c=2)
        predictions.append({'tracks_QT2': tracks_QT2[:, :1] + moves_QT2, 'visible_QT': seen.predict(vectors_QF) > 0.5})
    scores = Points().scores(predictions, held_out.examples)
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
    vectors_NQF = _in_boxes(train.features_NThwD, boxes_NQT4[:, :, 0])
    moves_NQT4 = boxes_NQT4 - boxes_NQT4[:, :, :1]
    readout = linear_probe.fit(vectors_NQF[always_NQ], rearrange(moves_NQT4[always_NQ], 'p t c -> p (t c)'))
    predictions = []
    for features_ThwD, boxes_QT4 in zip(held_out.features_NThwD, held_out.truth['boxes_QT4'], strict=True):
        vectors_QF = _in_boxes(features_ThwD[None], boxes_QT4[None, :, 0])[0]
        moves_QT4 = rearrange(readout.predict(vectors_QF), 'q (t c) -> q t c', c=4)
        predictions.append({'boxes_QT4': boxes_QT4[:, :1] + moves_QT4})
    scores = Boxes().scores(predictions, held_out.examples)
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
    scores = Depth(image_size=patch * GRID).scores(predictions, examples)
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
        pictures.picture(
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


def _clip_vectors(data):
    """The last frame's patches, averaged to a coarse grid, side by side: (N, F)."""
    return _coarse(data.features_NThwD)


def _coarse(features_NThwD):
    return reduce(features_NThwD[:, -1], 'n (a r) (b c) d -> n (a b d)', 'mean', a=POOLED, b=POOLED)


def _with_clip(found_NQF, features_NThwD, places_NQC):
    """Vectors of each query: its own features, those of the clip, and where it is."""
    coarse_NQF = repeat(_coarse(features_NThwD), 'n f -> n q f', q=found_NQF.shape[1])
    return np.concatenate([found_NQF, coarse_NQF, places_NQC], axis=-1).astype(np.float32)


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

"""Share of body joints found, as JHMDB counts it."""

from collections.abc import Iterable, Sequence

import numpy as np

THRESHOLDS = 0.1, 0.2, 0.3, 0.4, 0.5
BODY = 0.6  # of the diagonal of a body's bounding box: the unit of distances


def pck(
    videos: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, float]:
    """{threshold: percent of joints found within it}: the mean over joints of the share of frames of all videos.

    videos is an iterable of (predicted_TQ2, truth_TQ2, visible_TQ): positions in any one unit, and which predictions
    exist. Frame 0 does not count because its joints are given. A joint without a prediction is skipped, not missed.
    The unit of distance is 0.6 times the diagonal of the box around the true joints whose predictions exist. A joint
    that is never predicted has no share; nan if no joint has one.
    """
    relative_NQ = np.concatenate([_relative_distances(*video) for video in videos])
    shares = {}
    for threshold in thresholds:
        found_Q = np.sum(relative_NQ <= threshold, axis=0)
        counted_Q = np.sum(~np.isnan(relative_NQ), axis=0)
        shares_Q = found_Q[counted_Q > 0] / counted_Q[counted_Q > 0]
        shares[threshold] = float(100 * np.mean(shares_Q)) if len(shares_Q) else float('nan')
    return shares


def _relative_distances(predicted_TQ2, truth_TQ2, visible_TQ):
    """(T - 1, Q), nan if there is no prediction. If a body has size 0, an exact prediction has 0 and others inf."""
    predicted_TQ2, truth_TQ2 = np.asarray(predicted_TQ2, np.float64)[1:], np.asarray(truth_TQ2, np.float64)[1:]
    visible_TQ = np.asarray(visible_TQ, bool)[1:]
    low_T2 = np.min(truth_TQ2, axis=1, where=visible_TQ[..., None], initial=np.inf)
    high_T2 = np.max(truth_TQ2, axis=1, where=visible_TQ[..., None], initial=-np.inf)
    distance_TQ = np.linalg.norm(predicted_TQ2 - truth_TQ2, axis=-1)
    size_TQ = np.broadcast_to(BODY * np.linalg.norm(high_T2 - low_T2, axis=-1)[:, None], distance_TQ.shape)
    relative_TQ = np.where(distance_TQ == 0, 0, np.inf)
    np.divide(distance_TQ, size_TQ, out=relative_TQ, where=size_TQ > 0)
    return np.where(visible_TQ, relative_TQ, np.nan)

"""How well points are tracked, as TAP-Vid counts it."""

import numpy as np

THRESHOLDS = 1, 2, 4, 8, 16  # pixels of a frame scaled to 256 x 256


def tap_vid(
    query_frames_Q: np.ndarray,
    truth_QT2: np.ndarray,
    truth_visible_QT: np.ndarray,
    predicted_QT2: np.ndarray,
    predicted_visible_QT: np.ndarray,
    *,
    mode: str = 'first',
) -> dict[str, float]:
    """Scores of one video, each in [0, 1]; positions in pixels of a frame scaled to 256 x 256.

    Returns `occlusion_accuracy`, for each threshold d `pts_within_<d>` (visible points closer than d) and
    `jaccard_<d>`, and their means `average_pts_within_thresh` (delta_avg) and `average_jaccard` (AJ). In mode 'first'
    the frames after the query frame count, in mode 'strided' all frames except the query frame. A point at exactly the
    threshold is not within it. A visible point predicted at another place counts twice, as missed and as a false alarm;
    the position of a point predicted hidden does not count. Tracks that are never visible are dropped. A score with
    denominator 0 is nan; leave it out of the mean over videos. Raises ValueError for another mode.
    """
    ever_Q = np.asarray(truth_visible_QT, bool).any(axis=1)
    truth_QT2, predicted_QT2 = np.asarray(truth_QT2, np.float64)[ever_Q], np.asarray(predicted_QT2, np.float64)[ever_Q]
    visible_QT, found_QT = np.asarray(truth_visible_QT, bool)[ever_Q], np.asarray(predicted_visible_QT, bool)[ever_Q]
    counted_QT = _counted(np.asarray(query_frames_Q)[ever_Q], visible_QT.shape[1], mode)

    squared_QT = np.sum((predicted_QT2 - truth_QT2) ** 2, axis=-1)
    scores = {'occlusion_accuracy': _ratio(counted_QT & (visible_QT == found_QT), counted_QT)}
    visible_QT = visible_QT & counted_QT
    found_QT = found_QT & counted_QT
    for threshold in THRESHOLDS:
        near_QT = (squared_QT < threshold**2) & visible_QT
        false_alarms = np.sum(found_QT & ~near_QT)
        denominator = np.sum(visible_QT) + false_alarms
        scores[f'pts_within_{threshold}'] = _ratio(near_QT, visible_QT)
        scores[f'jaccard_{threshold}'] = _divide(np.sum(near_QT & found_QT), denominator)
    for name, mean in (('jaccard', 'average_jaccard'), ('pts_within', 'average_pts_within_thresh')):
        scores[mean] = float(np.mean([scores[f'{name}_{threshold}'] for threshold in THRESHOLDS]))
    return scores


def _counted(query_frames_Q, num_frames, mode):
    frames_T, queries_Q1 = np.arange(num_frames), np.round(query_frames_Q).astype(int)[:, None]
    if mode == 'first':
        return frames_T > queries_Q1
    if mode == 'strided':
        return frames_T != queries_Q1
    raise ValueError(f"mode {mode!r} is neither 'first' nor 'strided'")


def _ratio(part, whole):
    return _divide(np.sum(part), np.sum(whole))


def _divide(part, whole):
    return float(part / whole) if whole else float('nan')

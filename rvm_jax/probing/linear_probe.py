"""What features say openly: a linear readout, found in closed form (ridge regression), so that no schedule matters.

The attentive readouts of the published protocols need tens of thousands of steps; the demo suite has minutes.
"""

import dataclasses

import numpy as np

PENALTIES = 10.0 ** np.arange(-1, 6)
HELD_BACK = 0.25  # of the training vectors, the last ones, by which the penalty is chosen


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """predict(vectors_NF) = (vectors - mean) / deviation @ weights + offset."""

    mean_F: np.ndarray
    deviation_F: np.ndarray
    weights_FK: np.ndarray
    offset_K: np.ndarray
    penalty: float

    def predict(self, vectors_NF):
        """Outputs (N, K)."""
        return (vectors_NF - self.mean_F) / self.deviation_F @ self.weights_FK + self.offset_K


def fit(vectors_NF, targets_NK):
    """The LinearProbe with the least squared error and penalty * |weights|^2.

    The penalty is that of PENALTIES with the least error on vectors held back; the probe is then fitted to all.
    """
    vectors_NF, targets_NK = np.asarray(vectors_NF, np.float32), np.asarray(targets_NK, np.float32)
    used = round(len(vectors_NF) * (1 - HELD_BACK))
    errors = [
        np.square(probe.predict(vectors_NF[used:]) - targets_NK[used:]).mean()
        for probe in _fits(vectors_NF[:used], targets_NK[:used], PENALTIES)
    ]
    [best] = _fits(vectors_NF, targets_NK, [PENALTIES[int(np.argmin(errors))]])
    return best


def _fits(vectors_NF, targets_NK, penalties):
    mean_F, deviation_F = vectors_NF.mean(0), vectors_NF.std(0) + 1e-6
    offset_K = targets_NK.mean(0)
    normed_NF = (vectors_NF - mean_F) / deviation_F
    values_F, axes_FF = np.linalg.eigh((normed_NF.T @ normed_NF).astype(np.float64))
    products_FK = axes_FF.T @ (normed_NF.T @ (targets_NK - offset_K)).astype(np.float64)
    for penalty in penalties:
        weights_FK = axes_FF @ (products_FK / (np.maximum(values_F, 0) + penalty)[:, None])
        yield LinearProbe(mean_F, deviation_F, weights_FK.astype(np.float32), offset_K, float(penalty))

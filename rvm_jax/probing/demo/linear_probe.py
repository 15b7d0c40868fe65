"""A linear readout of features in closed form (ridge regression), so that the result does not depend on a schedule."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

PENALTIES = 10.0 ** np.arange(-1, 6)
HELD_BACK = 0.25  # share of the training vectors, the last ones, that choose the penalty
ROWS = 8192  # vectors that are in float64 at once


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """predict(vectors_NF) = (vectors - mean) / deviation @ weights + offset."""

    mean_F: np.ndarray
    deviation_F: np.ndarray
    weights_FK: np.ndarray
    offset_K: np.ndarray
    penalty: float

    def predict(self, vectors_NF: np.ndarray) -> np.ndarray:
        """Outputs (N, K)."""
        return (vectors_NF - self.mean_F) / self.deviation_F @ self.weights_FK + self.offset_K


class Ridge:
    """Training vectors (N, F); their products are computed once for all targets."""

    def __init__(self, vectors_NF: ArrayLike) -> None:
        self._vectors_NF = np.asarray(vectors_NF, np.float32)
        self._used = round(len(self._vectors_NF) * (1 - HELD_BACK))
        self._part, self._whole = _Products(self._vectors_NF[: self._used]), _Products(self._vectors_NF)

    def fit(self, targets_NK: ArrayLike) -> LinearProbe:
        """The LinearProbe with the least sum of squared error and penalty * |weights|^2.

        The penalty is the one of PENALTIES with the least error on held-out training vectors; the probe is then fitted
        to all vectors.
        """
        targets_NK = np.asarray(targets_NK, np.float32)
        held_back_NF, truth_NK = self._vectors_NF[self._used :], targets_NK[self._used :]
        errors = [
            np.square(probe.predict(held_back_NF) - truth_NK).mean()
            for probe in self._part.fits(targets_NK[: self._used], PENALTIES)
        ]
        [best] = self._whole.fits(targets_NK, [PENALTIES[int(np.argmin(errors))]])
        return best


def fit(vectors_NF: ArrayLike, targets_NK: ArrayLike) -> LinearProbe:
    """The LinearProbe of one target, see `Ridge`."""
    return Ridge(vectors_NF).fit(targets_NK)


class _Products:
    """Products of normed vectors in float64, so that rounding keeps the penalty and a Cholesky factor exists."""

    def __init__(self, vectors_NF):
        self._vectors_NF = vectors_NF
        self._mean_F = vectors_NF.mean(0, dtype=np.float64)
        products_FF = sum(rows_NF.T @ rows_NF for rows_NF in self._centered())
        self._deviation_F = np.sqrt(products_FF.diagonal() / len(vectors_NF)) + 1e-6
        products_FF /= self._deviation_F[:, None]
        products_FF /= self._deviation_F
        self._products_FF = products_FF

    def fits(self, targets_NK: np.ndarray, penalties: Sequence[float] | np.ndarray) -> Iterator[LinearProbe]:
        """Yield the LinearProbe of each penalty."""
        from scipy import linalg

        offset_K = targets_NK.mean(0)
        targets = np.split(targets_NK - offset_K, range(ROWS, len(targets_NK), ROWS))
        found_FK = sum(rows_NF.T @ some_NK for rows_NF, some_NK in zip(self._centered(), targets, strict=True))
        found_FK /= self._deviation_F[:, None]
        mean_F, deviation_F = self._mean_F.astype(np.float32), self._deviation_F.astype(np.float32)
        for penalty in penalties:
            penalized_FF = self._products_FF.copy()
            penalized_FF[np.diag_indices_from(penalized_FF)] += penalty
            factor = linalg.cho_factor(penalized_FF, lower=True, overwrite_a=True, check_finite=False)
            weights_FK = linalg.cho_solve(factor, found_FK, check_finite=False)
            yield LinearProbe(mean_F, deviation_F, weights_FK.astype(np.float32), offset_K, float(penalty))

    def _centered(self):
        for first in range(0, len(self._vectors_NF), ROWS):
            yield self._vectors_NF[first : first + ROWS] - self._mean_F

"""Classifiers of one vector a clip: its features, averaged over all tokens and frames. None is trained by steps.

`fit` takes vectors_ND, labels_N and the names of the clips, and returns a function from vectors (M, D) to probabilities
(M, num_classes). A class without a clip for training has the probability 0.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing.stratified import held_out

Classifier = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class NearestClips:
    """Weighted k-nearest neighbors, with the k and temperature of DINO (arXiv 2104.14294).

    The k training clips with the largest cosine similarity s vote for their class with weight exp(s / temperature); all
    clips vote if there are fewer than k. DINO reads the CLS token, this the average of all tokens.
    """

    k: int = 20
    temperature: float = 0.07

    def fit(self, vectors_ND: np.ndarray, labels_N: np.ndarray, names: Sequence[str], num_classes: int) -> Classifier:
        """The classifier, which holds all vectors."""
        from sklearn.neighbors import KNeighborsClassifier

        def weigh(distances_Mk):  # 1 - s; a factor for each row makes no difference
            return np.exp((distances_Mk.min(1, keepdims=True) - distances_Mk) / self.temperature)

        k = min(self.k, len(vectors_ND))
        model = KNeighborsClassifier(k, metric='cosine', algorithm='brute', weights=weigh)
        return _all_classes(model.fit(vectors_ND, labels_N), num_classes)


@dataclasses.dataclass(frozen=True)
class Linear:
    """Logistic regression of standardized vectors: the minimum of mean cross-entropy + penalty / 2 * |weights|^2.

    L-BFGS finds it, as for CLIP (arXiv 2103.00020, appendix A.3). The penalty is the one of penalties with the least
    cross-entropy on a share `held_back` of the training clips of each class, after a fit to the others; then all
    training clips are fitted. If no class has two clips, it is the largest penalty. The grid and the share are our
    choice.
    """

    penalties: tuple[float, ...] = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
    held_back: float = 0.2

    def fit(self, vectors_ND: np.ndarray, labels_N: np.ndarray, names: Sequence[str], num_classes: int) -> Classifier:
        """The classifier. UserError if all clips are of one class."""
        if len(set(labels_N)) < 2:
            raise UserError('--readout linear', 'needs training clips of two classes', 'choose another readout')
        return self._fit(vectors_ND, labels_N, self.penalty(vectors_ND, labels_N, names, num_classes), num_classes)

    def penalty(self, vectors_ND: np.ndarray, labels_N: np.ndarray, names: Sequence[str], num_classes: int) -> float:
        """The penalty that is chosen."""
        held_N = held_out(names, labels_N, self.held_back)
        if not held_N.any():
            return max(self.penalties)

        def entropy(penalty):
            predict = self._fit(vectors_ND[~held_N], labels_N[~held_N], penalty, num_classes)
            right_M = predict(vectors_ND[held_N])[np.arange(held_N.sum()), labels_N[held_N]]
            return -np.log(np.maximum(right_M, 1e-30)).mean()

        return min(self.penalties, key=entropy)

    def _fit(self, vectors_ND, labels_N, penalty, num_classes):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = LogisticRegression(C=1 / (penalty * len(vectors_ND)), max_iter=1000)
        return _all_classes(make_pipeline(StandardScaler(), model).fit(vectors_ND, labels_N), num_classes)


def _all_classes(model, num_classes):
    """A function from vectors to the probabilities of all classes, also of those that the model has not seen."""

    def predict(vectors_MD):
        probabilities_MK = np.zeros((len(vectors_MD), num_classes))
        probabilities_MK[:, model.classes_] = model.predict_proba(vectors_MD)
        return probabilities_MK

    return predict

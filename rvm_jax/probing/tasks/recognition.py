"""Which class a clip or an image is: SSv2, Kinetics, ImageNet, your own videos, ... (RVM, section 11; 4DS)."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.metrics import recognition as metrics
from rvm_jax.probing.readouts.attention import AttentionReadout
from rvm_jax.probing.readouts.streaming import FrameReadout


@dataclasses.dataclass(frozen=True)
class Recognition:
    """Cross-entropy of one learned query; sizes as published for SSv2 (Kinetics: channels 1024, heads 16).

    num_classes is 0 for as many classes as the data has.
    streaming: the answer and the loss come from the last frame only. mean_over_time averages features over frames first
    (DIF, for video models on repeated pictures); the time code then has one entry. With repeated pictures, streaming
    reads a core after it has seen all of them.
    """

    num_classes: int = 174
    channels: int = 768
    heads: int = 12
    streaming: bool = False
    mean_over_time: bool = False

    def __post_init__(self):
        if self.streaming and self.mean_over_time:
            raise UserError('streaming and mean_over_time', 'are two different ways to read a clip', 'choose one')

    def fitted(self, evaluated: Any, trained: Any) -> 'Recognition':
        """The task for these sources, with its number of classes.

        UserError if the sources differ in classes, or have more than the task; a warning if they have fewer.
        """
        if trained.classes != evaluated.classes:
            reason = 'does not have the classes of --data, or has them in another order'
            raise UserError('--train-data', reason, 'name two parts of one dataset')
        found = len(evaluated.classes)
        if not self.num_classes:
            return dataclasses.replace(self, num_classes=found)
        if found > self.num_classes:
            raise UserError(
                f'{found} classes', f'are in this data, but {self.num_classes} in the task',
                'choose the benchmark that belongs to the data',
            )  # fmt: skip
        if found < self.num_classes:
            logging.getLogger(__name__).warning(
                'the data has %d classes, fewer than the %d of the task: scores do not compare with published ones',
                found, self.num_classes,
            )  # fmt: skip
        return self

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        sizes = {'channels': self.channels, 'heads': self.heads, 'rngs': rngs}
        if self.streaming:
            return FrameReadout(width, self.num_classes, **sizes)
        num_frames = 1 if self.mean_over_time else num_frames
        return AttentionReadout(width, self.num_classes, num_queries=1, num_frames=num_frames, **sizes)

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy, and the accuracy."""
        logits_BK = self._logits(readout, features_BTMD)
        entropy_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch['label'])
        return entropy_B.mean(), {'accuracy': (logits_BK.argmax(-1) == batch['label']).mean()}

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`probabilities_K` of each clip."""
        return {'probabilities_K': jax.nn.softmax(self._logits(readout, features_BTMD))}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """`probabilities_K` and the true `label` of one clip."""
        return {'id': example['id'], 'label': example['label'], **found}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """`top1`, and `chance`, that of always the commonest class.

        Probabilities of clips that share an id are averaged first.
        """
        probabilities_NK, labels_N, ids = (
            [one[name] for one in measures] for name in ('probabilities_K', 'label', 'id')
        )
        return {'top1': metrics.top1(probabilities_NK, labels_N, ids), 'chance': metrics.chance(labels_N, ids)}

    def _logits(self, readout, features_BTMD):
        if self.streaming:
            return readout(features_BTMD[:, -1:])[:, 0, 0]
        if self.mean_over_time:
            features_BTMD = features_BTMD.mean(1, keepdims=True)
        return readout(features_BTMD)[:, 0]

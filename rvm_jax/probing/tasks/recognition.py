"""Which class a clip or an image is: SSv2, Kinetics, ImageNet, Places365, iNaturalist (RVM, section 11; 4DS)."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import optax

from rvm_jax.probing.metrics import recognition as metrics
from rvm_jax.probing.readouts.attention import AttentionReadout
from rvm_jax.probing.readouts.streaming import FrameReadout


@dataclasses.dataclass(frozen=True)
class Recognition:
    """Cross-entropy of one learned query; sizes as published for SSv2 (Kinetics: channels 1024, heads 16).

    streaming: the answer is that of the last frame, from its features alone; the loss is on it alone, too.
    """

    num_classes: int = 174
    channels: int = 768
    heads: int = 12
    streaming: bool = False
    metric: ClassVar[str] = 'top1'
    higher_is_better: ClassVar[bool] = True

    def readout(self, width, num_frames, rngs):
        """The module that `loss` and `predict` take."""
        sizes = {'channels': self.channels, 'heads': self.heads, 'rngs': rngs}
        if self.streaming:
            return FrameReadout(width, self.num_classes, **sizes)
        return AttentionReadout(width, self.num_classes, num_queries=1, num_frames=num_frames, **sizes)

    def loss(self, readout, features_BTMD, batch):
        """Mean cross-entropy, and beside it the accuracy."""
        logits_BK = self._logits(readout, features_BTMD)
        entropy_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch['label'])
        return entropy_B.mean(), {'accuracy': (logits_BK.argmax(-1) == batch['label']).mean()}

    def predict(self, readout, features_BTMD, batch):
        """`probabilities_K` of each clip."""
        return {'probabilities_K': jax.nn.softmax(self._logits(readout, features_BTMD))}

    def scores(self, predictions, examples):
        """Top-1; probabilities of clips that share an id are averaged first."""
        probabilities_NK = np.stack([found['probabilities_K'] for found in predictions])
        labels_N, ids = np.array([example['label'] for example in examples]), [example['id'] for example in examples]
        return {'top1': metrics.top1(probabilities_NK, labels_N, ids)}

    def _logits(self, readout, features_BTMD):
        if self.streaming:
            return readout(features_BTMD[:, -1:])[:, 0, 0]
        return readout(features_BTMD)[:, 0]

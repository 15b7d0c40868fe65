"""Where the boxes of the first frame go: Waymo Open (RVM, section 11; 4DS)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.metrics import boxes as metrics
from rvm_jax.probing.readouts.attention import BoxReadout
from rvm_jax.probing.readouts.streaming import StreamingBoxes, corners_to_center
from rvm_jax.probing.readouts.tracker import RecurrentTracker
from rvm_jax.probing.tasks.losses import average, known, masked_mean


@dataclasses.dataclass(frozen=True)
class Boxes:
    """L2 on the coordinates of known boxes, of objects that are known in frame 0; mean IoU.

    Readouts: `BoxReadout`; streaming, whose loss is on center and size; or recurrent, with the sizes tracker_*.
    """

    channels: int = 1024
    heads: int = 4
    query_width: int = 512
    streaming: bool = False
    recurrent: bool = False
    tracker_channels: int = 512
    tracker_heads: int = 8
    tracker_hidden: int = 2048
    tracker_depth: int = 3

    def __post_init__(self):
        if self.streaming and self.recurrent:
            raise UserError('streaming and recurrent', 'are two different readouts', 'choose one')

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of settings that the chosen readout does not read."""
        of_tracker = ('tracker_channels', 'tracker_heads', 'tracker_hidden', 'tracker_depth')
        return ('channels', 'heads', 'query_width') if self.recurrent else of_tracker

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        sizes = {'channels': self.channels, 'heads': self.heads, 'query_width': self.query_width, 'rngs': rngs}
        if self.streaming:
            return StreamingBoxes(width, **sizes)
        if self.recurrent:
            return RecurrentTracker(
                width, 4, channels=self.tracker_channels, heads=self.tracker_heads, hidden=self.tracker_hidden,
                depth=self.tracker_depth, rngs=rngs,
            )  # fmt: skip
        return BoxReadout(width, num_frames, **sizes)

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error of the four coordinates."""
        asked_BQT = _asked(batch['known_QT'])
        truth_BQT4 = known(batch['boxes_QT4'], asked_BQT[..., None])
        found_BQT4 = self._boxes(readout, features_BTMD, truth_BQT4[:, :, 0])
        if self.streaming:
            truth_BQT4, found_BQT4 = corners_to_center(truth_BQT4), corners_to_center(found_BQT4)
        return masked_mean(jnp.square(found_BQT4 - truth_BQT4), asked_BQT[..., None]), {}

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`boxes_QT4`, x0, y0, x1, y1 in [0, 1] of the frame; nothing forces them into that range or order."""
        known_BQ1 = batch['known_QT'][:, :, :1]
        return {'boxes_QT4': self._boxes(readout, features_BTMD, known(batch['boxes_QT4'][:, :, 0], known_BQ1))}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """Mean IoU of one clip."""
        mean_iou = metrics.mean_iou(found['boxes_QT4'], example['boxes_QT4'], _asked(example['known_QT']))
        return {'id': example['id'], 'mean_iou': mean_iou}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Mean IoU, by clip and then over clips."""
        return average(measures)

    def _boxes(self, readout, features_BTMD, first_BQ4):
        if not self.recurrent:
            return readout(features_BTMD, first_BQ4)
        return readout(features_BTMD, first_BQ4, jnp.zeros(first_BQ4.shape[:2], jnp.int32))[0]


def _asked(known_QT):
    return known_QT & known_QT[..., :1]

"""Where points of the first frame go: Perception Test, with a readout trained on Kubric (4DS; TAP-Vid losses)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.metrics import points as metrics
from rvm_jax.probing.readouts.attention import PointReadout
from rvm_jax.probing.readouts.streaming import StreamingPoints
from rvm_jax.probing.readouts.tracker import RecurrentTracker
from rvm_jax.probing.tasks.losses import average, huber, known, masked_mean, norm

RASTER = 256  # pixels a side in which errors are measured, whatever the frame


@dataclasses.dataclass(frozen=True)
class Points:
    """Huber on positions, cross-entropy on visible and on certain (error within certain_within pixels of the raster).

    Positions and certainty count in frames where the point is visible (with occluded_positions: where it is in the
    scene); visibility counts in all frames. Frames before the query, invalid tracks, and tracks that are hidden at
    their query do not count. Readouts: `PointReadout`, which only takes points of frame 0, so tracks with a later query
    are left out, and their number is reported; streaming, which gets the place of a query but not its frame, as in the
    release, and takes all tracks; or recurrent, with the sizes tracker_*, where each query enters in its own frame.
    """

    channels: int = 1024
    heads: int = 8
    query_width: int = 512
    streaming: bool = False
    recurrent: bool = False
    tracker_channels: int = 512
    tracker_heads: int = 8
    tracker_hidden: int = 2048
    tracker_depth: int = 3
    huber_delta: float = 4.0  # pixels of the raster, as the next
    certain_within: float = 6.0
    position_weight: float = 0.05
    visible_weight: float = 1.0
    certain_weight: float = 1.0
    occluded_positions: bool = False
    query_mode: str = 'first'  # frames that count: see metrics.points

    def __post_init__(self):
        if self.streaming and self.recurrent:
            raise UserError('streaming and recurrent', 'are two different readouts', 'choose one')
        if self.query_mode not in ('first', 'strided'):
            raise UserError(
                f'query_mode {self.query_mode!r}', 'is not a query mode of TAP-Vid', 'give first or strided'
            )

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of settings that the chosen readout does not read."""
        of_tracker = ('tracker_channels', 'tracker_heads', 'tracker_hidden', 'tracker_depth')
        return ('channels', 'heads', 'query_width') if self.recurrent else of_tracker

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        sizes = {'channels': self.channels, 'heads': self.heads, 'query_width': self.query_width, 'rngs': rngs}
        if self.streaming:
            return StreamingPoints(width, **sizes)
        if self.recurrent:
            return RecurrentTracker(
                width, 2, channels=self.tracker_channels, heads=self.tracker_heads, hidden=self.tracker_hidden,
                depth=self.tracker_depth, rngs=rngs,
            )  # fmt: skip
        return PointReadout(width, num_frames, **sizes)

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Weighted sum of the three losses, and each of them. All means divide by the frames that visibility counts."""
        points_BQ2, frames_BQ, asked_BQ = self._queries(batch)
        tracks_BQT2, visible_BQT, certain_BQT = readout(features_BTMD, points_BQ2, frames_BQ)
        counted_BQT = asked_BQ[..., None] & (jnp.arange(batch['visible_QT'].shape[-1]) >= frames_BQ[..., None])
        placed_BQT = counted_BQT & batch['in_scene_QT' if self.occluded_positions else 'visible_QT']
        truth_BQT2 = known(batch['tracks_QT2'], placed_BQT[..., None])
        error_BQT = RASTER * norm(tracks_BQT2 - truth_BQT2)
        is_near_BQT = jax.lax.stop_gradient(error_BQT) <= self.certain_within

        def mean(values_BQT, mask_BQT):
            return masked_mean(jnp.where(mask_BQT, values_BQT, 0), counted_BQT)

        losses = {
            'position': mean(huber(error_BQT, self.huber_delta), placed_BQT),
            'visible': mean(_cross_entropy(visible_BQT, batch['visible_QT']), counted_BQT),
            'certain': mean(_cross_entropy(certain_BQT, is_near_BQT), placed_BQT),
        }
        return sum(getattr(self, f'{name}_weight') * value for name, value in losses.items()), losses

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`tracks_QT2` in [0, 1]; `visible_QT`: whether the point is visible and its place certain; `asked_Q`.

        With streaming, `visible_QT` is visibility only, and the query itself is the answer for its frame, as in the
        released code. Values of tracks that are not in `asked_Q` mean nothing.
        """
        points_BQ2, frames_BQ, asked_BQ = self._queries(batch)
        tracks_BQT2, visible_BQT, certain_BQT = readout(features_BTMD, points_BQ2, frames_BQ)
        if not self.streaming:
            is_visible_BQT = jax.nn.sigmoid(visible_BQT) * jax.nn.sigmoid(certain_BQT) > 0.5
            return {'tracks_QT2': tracks_BQT2, 'visible_QT': is_visible_BQT, 'asked_Q': asked_BQ}
        is_query_BQT = jnp.arange(tracks_BQT2.shape[2]) == frames_BQ[..., None]
        tracks_BQT2 = jnp.where(is_query_BQT[..., None], points_BQ2[:, :, None], tracks_BQT2)
        return {'tracks_QT2': tracks_BQT2, 'visible_QT': (visible_BQT > 0) | is_query_BQT, 'asked_Q': asked_BQ}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """The scores of `metrics.points.tap_vid` for a clip, and how many tracks were scored and left out."""
        frames_Q = np.round(example['queries_Q3'][:, 0]).astype(int)
        asked_Q = self._asked(example['valid_Q'], frames_Q, example['visible_QT'])
        truth = [RASTER * example['tracks_QT2'][asked_Q], example['visible_QT'][asked_Q]]
        predicted = [RASTER * found['tracks_QT2'][asked_Q], found['visible_QT'][asked_Q]]
        scored, left_out = int(asked_Q.sum()), int(example['valid_Q'].sum() - asked_Q.sum())
        measured = metrics.tap_vid(frames_Q[asked_Q], *truth, *predicted, mode=self.query_mode)
        return {'id': example['id'], **measured, 'tracks_scored': scored, 'tracks_left_out': left_out}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Means by video and then over videos; sums for the numbers of tracks."""
        sums = {name: sum(one[name] for one in measures) for name in ('tracks_scored', 'tracks_left_out')}
        return average(measures) | sums

    def _queries(self, batch):
        """Points (B, Q, 2), their frames (B, Q), and which of them count (B, Q)."""
        queries_BQ3 = known(batch['queries_Q3'], batch['valid_Q'][..., None])
        frames_BQ = jnp.round(queries_BQ3[..., 0]).astype(jnp.int32)
        return queries_BQ3[..., 1:], frames_BQ, self._asked(batch['valid_Q'], frames_BQ, batch['visible_QT'])

    def _asked(self, valid_Q, frames_Q, visible_QT):
        """Which tracks (Q,), or (B, Q) of a batch, this readout can answer."""
        is_query_QT = np.arange(visible_QT.shape[-1]) == frames_Q[..., None]
        was_seen_Q = (visible_QT & is_query_QT).any(-1)
        can_be_told_Q = (frames_Q == 0) | self.streaming | self.recurrent
        return valid_Q & was_seen_Q & can_be_told_Q


def _cross_entropy(logits, truth):
    return optax.sigmoid_binary_cross_entropy(logits, truth.astype(jnp.float32))

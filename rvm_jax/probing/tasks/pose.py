"""How the camera moves: over a clip (RealEstate10K, WALT probes) or by frame (nuScenes, arXiv 2605.19137)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.metrics import pose as metrics
from rvm_jax.probing.readouts.attention import AttentionReadout
from rvm_jax.probing.readouts.streaming import PoseHead
from rvm_jax.probing.tasks.losses import average, known, masked_mean, norm


@dataclasses.dataclass(frozen=True)
class ClipPose:
    """[R|t] from the first camera to the last, of the features of these two frames side by side; EPE.

    Loss: mean squared error of the 12 entries. Published with 256 channels; the number of heads is our choice.
    """

    channels: int = 256
    heads: int = 4
    streaming: bool = False

    def __post_init__(self):
        if self.streaming:
            raise UserError('streaming clip pose', 'compares the first frame with the last', 'take frame pose')

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        return AttentionReadout(
            2 * width, 12, channels=self.channels, heads=self.heads, num_queries=1, num_frames=1, rngs=rngs
        )

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error."""
        return jnp.square(self._poses(readout, features_BTMD) - batch['pose_34']).mean(), {}

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`pose_34`, whose R is only close to a rotation."""
        return {'pose_34': self._poses(readout, features_BTMD)}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """End-point error of a virtual cube, with the nearest rotation, in the unit of the translations."""
        return {'id': example['id'], 'epe': metrics.corner_error(found['pose_34'], example['pose_34'])}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Mean end-point error, by clip and then over clips."""
        return average(measures)

    def _poses(self, readout, features_BTMD):
        ends_BMD = jnp.concatenate([features_BTMD[:, 0], features_BTMD[:, -1]], axis=-1)
        return rearrange(readout(ends_BMD[:, None]), 'b 1 (r c) -> b r c', c=4)


@dataclasses.dataclass(frozen=True)
class FramePose:
    """Translation and rotation of the camera since the frame before, from each frame's features; RPE_tr.

    Loss: e^-s_t L_t + s_t + e^-s_r L_r + s_r, where the s are learned with the readout and start at log_scales; L_t is
    the mean L1 norm of translation errors (meters), L_r the mean Frobenius norm of rotation errors.
    """

    channels: int = 1024
    hidden: int = 512
    log_scales: tuple[float, float] = (0.0, -3.0)
    streaming: bool = True

    def __post_init__(self):
        if not self.streaming:
            raise UserError(
                'offline frame pose', 'its head sees one frame at a time', 'set streaming, or take clip pose'
            )

    def readout(self, width: int, num_frames: int, rngs: nnx.Rngs) -> nnx.Module:
        """The module that `loss` and `predict` take, for features of this width."""
        return PoseHead(width, channels=self.channels, hidden=self.hidden, log_scales=self.log_scales, rngs=rngs)

    def loss(
        self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss over frames with known motion, and its two parts. It may be negative."""
        translations_BT3, rotations_BT6 = readout(features_BTMD)
        known_BT = batch['known_T']
        off_BT3 = translations_BT3 - known(batch['translations_T3'], known_BT[..., None])
        turned_BT33 = rotation_from_6d(rotations_BT6) - known(batch['rotations_T33'], known_BT[..., None, None])
        losses = {
            'translation': masked_mean(jnp.abs(off_BT3).sum(-1), known_BT),
            'rotation': masked_mean(norm(rearrange(turned_BT33, 'b t r c -> b t (r c)')), known_BT),
        }
        scales = readout.log_scales[...]
        parts = jnp.stack([losses['translation'], losses['rotation']])
        return (jnp.exp(-scales) * parts + scales).sum(), losses

    def predict(self, readout: Any, features_BTMD: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`translations_T3` in meters and `rotations_T33`; those of frame 0 mean nothing."""
        translations_BT3, rotations_BT6 = readout(features_BTMD)
        return {'translations_T3': translations_BT3, 'rotations_T33': rotation_from_6d(rotations_BT6)}

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """Mean and root mean square error of translation in millimeters."""
        mean, rms = metrics.translation_error(found['translations_T3'], example['translations_T3'], example['known_T'])
        return {'id': example['id'], 'rpe_tr': mean, 'rpe_tr_rms': rms}

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Both, by clip and then over clips."""
        return average(measures)


def rotation_from_6d(r_X6: jax.Array) -> jax.Array:
    """Rotations whose first two columns are the halves of r_X6, orthonormalized; the third is their cross product."""
    first_X3 = _unit(r_X6[..., :3])
    second_X3 = r_X6[..., 3:]
    second_X3 = _unit(second_X3 - (first_X3 * second_X3).sum(-1, keepdims=True) * first_X3)
    return jnp.stack([first_X3, second_X3, jnp.cross(first_X3, second_X3)], axis=-1)


def _unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))

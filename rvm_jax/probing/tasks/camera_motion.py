"""How the camera moves between frames, from a whole clip: the demo suite's planar stand-in for camera pose."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from rvm_jax.probing.readouts.attention import AttentionReadout


@dataclasses.dataclass(frozen=True)
class CameraMotion:
    """Where the background moves the frame's four corners from one frame to the next, in percent of the frame's side.

    An example has corners_42 (x, y as fractions of the side). Loss: squared error in percent. Metric: the mean distance
    between predicted and true places of the corners, in percent of the side; also as a share of the true motion.
    """

    channels: int = 256
    heads: int = 4
    metric = 'corner_error'
    higher_is_better = False

    def readout(self, width, num_frames, rngs):
        """An attentive readout with eight outputs."""
        return AttentionReadout(
            width, 8, channels=self.channels, heads=self.heads, num_queries=1, num_frames=num_frames, rngs=rngs
        )

    def loss(self, readout, features_BTMD, batch):
        """Mean squared error of the corners."""
        corners_B42 = self.predict(readout, features_BTMD, batch)['corners_42']
        error = jnp.square(100 * (corners_B42 - batch['corners_42'])).sum(-1).mean()
        return error, {'squared_error': error}

    def predict(self, readout, features_BTMD, batch):
        """corners_42 of each clip."""
        outputs_B8 = readout(features_BTMD)[:, 0]
        return {'corners_42': rearrange(outputs_B8, 'b (c xy) -> b c xy', xy=2) / 100}

    def scores(self, predictions, examples):
        """{'corner_error', 'share_of_motion'}."""
        found = 100 * np.stack([prediction['corners_42'] for prediction in predictions]).astype(np.float64)
        truth = 100 * np.stack([example['corners_42'] for example in examples]).astype(np.float64)
        error = np.linalg.norm(found - truth, axis=-1).mean()
        return {'corner_error': float(error), 'share_of_motion': float(error / np.linalg.norm(truth, axis=-1).mean())}

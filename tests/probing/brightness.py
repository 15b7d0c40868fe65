"""A whole benchmark in one file: clips of one gray each, and a task that reads how bright they are."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rvm_jax.probing.tasks.losses import average


class Grays:
    """Clips of 16 x 16 pixels; the truth is their gray in [0, 1]."""

    num_frames = 3

    def __init__(self, root, split, *, num_clips=8):
        self.num_clips = num_clips

    def __len__(self):
        return self.num_clips

    def example(self, index, rng=None):
        gray = 20 * index if rng is None else int(rng.integers(0, 256))
        video_THWC = np.full((self.num_frames, 16, 16, 3), gray, np.uint8)
        return {'id': f'gray {gray}', 'video_THWC': video_THWC, 'brightness': np.float32(gray / 255)}


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Mean absolute error of a linear readout of averaged features."""

    scale: float = 1.0

    def readout(self, width, num_frames, rngs):
        return nnx.Linear(width, 1, rngs=rngs)

    def loss(self, readout, features_BTMD, batch):
        return jnp.square(self._brightness(readout, features_BTMD) - batch['brightness']).mean(), {}

    def predict(self, readout, features_BTMD, batch):
        return {'brightness': self._brightness(readout, features_BTMD)}

    def measure(self, found, example):
        return {'id': example['id'], 'error': abs(float(found['brightness'] - example['brightness']))}

    def scores(self, measures):
        return average(measures)

    def _brightness(self, readout, features_BTMD):
        return self.scale * readout(features_BTMD.mean((1, 2)))[:, 0]

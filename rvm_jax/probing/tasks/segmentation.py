"""A linear probe of patches: what is at each of them, told from the features of that frame alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange, reduce, repeat
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.probing.metrics import segmentation


class LinearReadout(nnx.Module):
    """LN without parameters, then Dense, at every patch: (B, T, M, D) -> logits (B, T, N, K)."""

    def __init__(self, width, outputs, num_prefix_tokens, *, rngs):
        self.num_prefix_tokens = num_prefix_tokens
        self.head = layers.Dense(width, outputs, rngs=rngs)

    def __call__(self, features_BTMD):
        """Logits of each class at each patch."""
        return self.head(jax.nn.standardize(features_BTMD[:, :, self.num_prefix_tokens :], epsilon=1e-6))


@dataclasses.dataclass(frozen=True)
class PatchSegmentation:
    """Which class covers most of each patch.

    An example has masks_THW, 0 ... num_classes - 1. Loss: cross-entropy against the share of each class in a patch.
    Metric: mean IoU over classes at full size, predictions enlarged without smoothing, frames before first_frame left
    out of both: the noise square shows in no first frame, and the paper's figure begins at its fourth.
    """

    num_classes: int
    num_prefix_tokens: int
    grid: tuple  # h, w
    first_frame: int = 0
    metric = 'miou'
    higher_is_better = True

    def readout(self, width, num_frames, rngs):
        """A linear layer."""
        return LinearReadout(width, self.num_classes, self.num_prefix_tokens, rngs=rngs)

    def loss(self, readout, features_BTMD, batch):
        """Mean cross-entropy."""
        h, w = self.grid
        classes_BTHWK = jax.nn.one_hot(batch['masks_THW'], self.num_classes)
        shares_BTNK = rearrange(
            reduce(classes_BTHWK, 'b t (h r) (w c) k -> b t h w k', 'mean', h=h, w=w), 'b t h w k -> b t (h w) k'
        )
        logits_BTNK = readout(features_BTMD)
        error = optax.softmax_cross_entropy(logits_BTNK, shares_BTNK)[:, self.first_frame :].mean()
        return error, {'cross_entropy': error}

    def predict(self, readout, features_BTMD, batch):
        """patches_Thw, the class of each patch."""
        found_BTN = jnp.argmax(readout(features_BTMD), axis=-1)
        return {'patches_Thw': rearrange(found_BTN, 'b t (h w) -> b t h w', h=self.grid[0])}

    def scores(self, predictions, examples):
        """{'miou'} over all pixels of all clips."""
        total = 0
        for prediction, example in zip(predictions, examples, strict=True):
            truth_THW = example['masks_THW'][self.first_frame :]
            patches_Thw = prediction['patches_Thw'][self.first_frame :]
            sides = (truth // patch for truth, patch in zip(truth_THW.shape[1:], patches_Thw.shape[1:], strict=True))
            rows, columns = sides
            found_THW = repeat(np.asarray(patches_Thw), 't h w -> t (h r) (w c)', r=rows, c=columns)
            total = total + segmentation.confusion(truth_THW, found_THW, self.num_classes)
        return {'miou': segmentation.mean_iou(total)}

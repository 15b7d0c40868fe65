"""Readouts that see one frame at a time: they only know the past from the features (arXiv 2605.19137).

Layer norms have epsilon 1e-5 and GELUs are exact. `width` and `channels` are as elsewhere. If they differ, trackers and
the pose head first map tokens to `channels` with a dense layer.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.probing.readouts.attention import AttentionReadout, repeat_queries
from rvm_jax.probing.readouts.readout_layers import EXECUTION, MLP, QueryNet, shape_of_heads

EPSILON = 1e-5


class FrameReadout(nnx.Module):
    """The attentive readout with learned queries, applied to each frame separately with the same weights.

    has_code: the depth readout has a time code with one entry, which all frames share.
    """

    def __init__(self, width, outputs, *, channels, heads, num_queries=1, has_code=False, rngs):
        self.readout = AttentionReadout(
            width, outputs, channels=channels, heads=heads, num_queries=num_queries,
            num_frames=1 if has_code else None, gelu='erf', epsilon=EPSILON, rngs=rngs,
        )  # fmt: skip

    def __call__(self, features_BTMD: jax.Array) -> jax.Array:
        """Outputs (B, T, Q, K)."""
        outputs = self.readout(rearrange(features_BTMD, 'b t m d -> (b t) 1 m d'))
        return rearrange(outputs, '(b t) q k -> b t q k', t=features_BTMD.shape[1])


class DecoderLayer(nnx.Module):
    """Pre-norm decoder layer as in PyTorch, then a norm: self-attention, cross-attention, MLP with ReLU.

    In self-attention each query only sees itself, so queries do not see each other. Tokens are not normed.
    """

    def __init__(self, channels, heads, *, rngs):
        def norm():
            return layers.layer_norm(channels, jnp.float32, epsilon=EPSILON, rngs=rngs)

        def attend():
            return layers.Attention(channels, *shape_of_heads(channels, heads), execution=EXECUTION, rngs=rngs)

        self.attention_norm, self.attention = norm(), attend()
        self.cross_attention_norm, self.cross_attention = norm(), attend()
        self.mlp_norm = norm()
        self.dense_in = layers.Dense(channels, 4 * channels, rngs=rngs)
        self.dense_out = layers.Dense(4 * channels, channels, rngs=rngs)
        self.norm = norm()

    def __call__(self, x_BQD: jax.Array, tokens_BMD: jax.Array) -> jax.Array:
        """Returns (B, Q, D)."""
        alone = rearrange(self.attention_norm(x_BQD), 'b q d -> (b q) 1 d')
        x_BQD = x_BQD + self.attention(alone, alone).reshape(x_BQD.shape)
        x_BQD = x_BQD + self.cross_attention(self.cross_attention_norm(x_BQD), tokens_BMD)
        x_BQD = x_BQD + self.dense_out(jax.nn.relu(self.dense_in(self.mlp_norm(x_BQD))))
        return self.norm(x_BQD)


class StreamingBoxes(nnx.Module):
    """box_t = head(decoder(encode(box_{t-1}), tokens_t)): only the box is carried, without a gradient through it."""

    def __init__(self, width, *, channels, heads, query_width, rngs):
        self.embedder = _embedder(width, channels, rngs)
        self.query_net = QueryNet(4, query_width, gelu='erf', layout='coordinate', rngs=rngs)
        self.query = layers.Dense(query_width, channels, rngs=rngs)
        self.decoder = DecoderLayer(channels, heads, rngs=rngs)
        self.head = MLP(channels, channels, 4, gelu='erf', rngs=rngs)

    def __call__(self, features_BTMD: jax.Array, boxes_BQ4: jax.Array) -> jax.Array:
        """Boxes (B, Q, T, 4) from those in frame 0 (or, to continue, in the frame before), both x0, y0, x1, y1."""
        tokens_BTMP = _embed(self.embedder, features_BTMD)

        def step(boxes_BQ4, tokens_BMP):
            boxes_BQ4 = self.step(tokens_BMP, jax.lax.stop_gradient(boxes_BQ4))
            return boxes_BQ4, boxes_BQ4

        first = corners_to_center(boxes_BQ4.astype(jnp.float32))
        _, boxes_TBQ4 = jax.lax.scan(step, first, rearrange(tokens_BTMP, 'b t m p -> t b m p'))
        return center_to_corners(rearrange(boxes_TBQ4, 't b q c -> b q t c'))

    def step(self, tokens_BMP: jax.Array, boxes_BQ4: jax.Array) -> jax.Array:
        """Boxes (center x, y, width, height) of a frame from those of the frame before and its embedded tokens."""
        return self.head(self.decoder(self.query(self.query_net(boxes_BQ4)), tokens_BMP))


class StreamingPoints(nnx.Module):
    """Every frame is asked separately where a point is, given the place where it started; nothing is carried."""

    def __init__(self, width, *, channels, heads, query_width, rngs):
        self.embedder = _embedder(width, channels, rngs)
        self.query_net = QueryNet(2, query_width, gelu='erf', layout='coordinate', rngs=rngs)
        self.query = layers.Dense(query_width, channels, rngs=rngs)
        self.decoder = DecoderLayer(channels, heads, rngs=rngs)
        self.head = MLP(channels, query_width, 4, gelu='erf', rngs=rngs)

    def __call__(
        self, features_BTMD: jax.Array, points_BQ2: jax.Array, frames_BQ: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `PointReadout`. The released head gives uncertainty, so its sign is flipped here.

        points_BQ2 is where each point is first seen, in any frame. frames_BQ is not used, as in the release.
        """
        num_frames = features_BTMD.shape[1]
        tokens = rearrange(_embed(self.embedder, features_BTMD), 'b t m p -> (b t) m p')
        queries = repeat_queries(self.query(self.query_net(points_BQ2)), num_frames)
        outputs = rearrange(self.head(self.decoder(queries, tokens)), '(b t) q c -> b q t c', t=num_frames)
        return jax.nn.sigmoid(outputs[..., :2]), outputs[..., 2], -outputs[..., 3]


class PoseHead(nnx.Module):
    """Motion of the camera since the frame before, from the mean of all tokens: translation and a 6-D rotation.

    It also holds log_scales, the weights of the two losses, which are learned with the head (see tasks/pose.py).
    """

    def __init__(self, width, *, channels, hidden, log_scales, rngs):
        self.embedder = _embedder(width, channels, rngs)
        self.norm = layers.layer_norm(channels, jnp.float32, epsilon=EPSILON, rngs=rngs)
        self.mlp = MLP(channels, hidden, 9, gelu='erf', rngs=rngs)
        self.log_scales = nnx.Param(jnp.asarray(log_scales, jnp.float32))

    def __call__(self, features_BTMD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Translations (B, T, 3) in meters and rotations (B, T, 6)."""
        outputs_BT9 = self.mlp(self.norm(_embed(self.embedder, features_BTMD).mean(2)))
        return outputs_BT9[..., :3], outputs_BT9[..., 3:]


def corners_to_center(boxes: jax.Array) -> jax.Array:
    """Boxes x0, y0, x1, y1 as center x, center y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def center_to_corners(boxes: jax.Array) -> jax.Array:
    """Boxes center x, center y, width, height as x0, y0, x1, y1."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([center - size / 2, center + size / 2], axis=-1)


def _embedder(width, channels, rngs):
    return None if width == channels else layers.Dense(width, channels, rngs=rngs)


def _embed(embedder, features_BTMD):
    features_BTMD = features_BTMD.astype(jnp.float32)
    return features_BTMD if embedder is None else embedder(features_BTMD)

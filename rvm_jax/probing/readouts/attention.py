"""Attentive readout of a whole clip: queries attend once to the tokens of all frames (4DS; RVM, section 11).

Readouts compute in float32 whatever dtype the features have.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.models.attention import attention
from rvm_jax.probing.readouts.readout_layers import EXECUTION, QueryNet, by_chunks, shape_of_heads

STDDEV = 0.02  # of learned queries and time codes at the start


class AttentionReadout(nnx.Module):
    """z = q + Dense(attention(q, LN(features) + time code));  z = z + MLP(LN(z));  output = Dense(z).

    Queries are learned (num_queries), or given and projected (query_width). num_frames is the length of the learned
    time code; a clip of another length gets a linear interpolation of it. None: no time code. arXiv 2605.19137 has
    gelu 'erf' and epsilon 1e-5.
    """

    def __init__(
        self, width, outputs, *, channels, heads, num_queries=None, query_width=None, num_frames=None, gelu='tanh',
        epsilon=1e-6, rngs,
    ):  # fmt: skip
        head_shape = shape_of_heads(channels, heads)
        self.hidden = 4 * channels
        self.input_norm = layers.layer_norm(width, jnp.float32, epsilon=epsilon, rngs=rngs)
        self.temporal_code: Any = _learned(rngs, (num_frames, width)) if num_frames else None
        self.queries: Any = _learned(rngs, (num_queries, *head_shape)) if num_queries else None
        self.query = layers.Dense(query_width, head_shape, rngs=rngs) if query_width else None
        self.key = layers.Dense(width, head_shape, rngs=rngs)
        self.value = layers.Dense(width, head_shape, rngs=rngs)
        self.out = layers.Dense(head_shape, channels, rngs=rngs)
        self.mlp_norm = layers.layer_norm(channels, jnp.float32, epsilon=epsilon, rngs=rngs)
        self.mlp = layers.MLP(channels, self.hidden, gelu=gelu, rngs=rngs)
        self.head = layers.Dense(channels, outputs, rngs=rngs)

    def __call__(self, features_BTMD: jax.Array, queries_BQE: jax.Array | None = None) -> jax.Array:
        """Outputs (B, Q, K) float32; queries_BQE (B, Q, query_width) unless queries are learned."""
        tokens_BTMD = self.input_norm(features_BTMD)
        if self.temporal_code is not None:
            tokens_BTMD = tokens_BTMD + self._code(features_BTMD.shape[1])[:, None]
        tokens_BKD = rearrange(tokens_BTMD, 'b t m d -> b (t m) d')
        key_BKHd, value_BKHd = self.key(tokens_BKD), self.value(tokens_BKD)
        batch, num_keys, heads, _ = key_BKHd.shape

        def read(queries):
            query_BQHd = self.queries_to_heads(queries)
            query_BQHd = jnp.broadcast_to(query_BQHd, (batch, *query_BQHd.shape[1:]))
            attended_BQHd = attention(query_BQHd, key_BKHd, value_BKHd, EXECUTION)
            x_BQP = rearrange(query_BQHd, 'b q h d -> b q (h d)') + self.out(attended_BQHd)
            return self.head(x_BQP + self.mlp(self.mlp_norm(x_BQP)))

        if queries_BQE is None:
            queries_BQE = rearrange(self.queries[...], 'q h d -> 1 q (h d)')
        return by_chunks(read, queries_BQE, batch * (heads * num_keys + self.hidden))

    def queries_to_heads(self, queries_BQE: jax.Array) -> jax.Array:
        """Queries (B, Q, H, d): given queries are projected, learned ones are only split into heads."""
        if self.query is not None:
            return self.query(queries_BQE.astype(jnp.float32))
        return rearrange(queries_BQE, 'b q (h d) -> b q h d', h=self.queries.shape[1])

    def _code(self, num_frames):
        code_TD = self.temporal_code[...]
        if len(code_TD) == num_frames:
            return code_TD
        return jax.image.resize(code_TD, (num_frames, code_TD.shape[1]), 'linear', antialias=False)


def blocks_to_frames(outputs_BQK: jax.Array, grid: tuple[int, int, int], block: tuple[int, int, int]) -> jax.Array:
    """Frames (B, T, H, W) from queries over a grid (t, h, w), each with a block of (frames, rows, columns)."""
    (t, h, w), (p, r, c) = grid, block
    return rearrange(outputs_BQK, 'b (t h w) (p r c) -> b (t p) (h r) (w c)', t=t, h=h, w=w, p=p, r=r, c=c)


class PointReadout(nnx.Module):
    """Points of a clip: each query is asked once for every `frames_per_tile` frames, with a learned time code.

    The codes are added before queries are projected to the readout's channels, as in 4DS (arXiv 2605.19137 adds them
    after). Queries do not see each other.
    """

    def __init__(self, width, num_frames, *, channels, heads, query_width, frames_per_tile=2, rngs):
        self.num_frames, self.frames_per_tile = num_frames, frames_per_tile
        self.query_net = QueryNet(2, query_width, rngs=rngs)
        self.tile_code = _learned(rngs, (math.ceil(num_frames / frames_per_tile), query_width))
        self.readout = AttentionReadout(
            width, 4 * frames_per_tile, channels=channels, heads=heads, query_width=query_width,
            num_frames=num_frames, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self, features_BTMD: jax.Array, points_BQ2: jax.Array, frames_BQ: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tracks (B, Q, T, 2) in [0, 1] (x, y), and logits (B, Q, T) that a point is visible and its place certain.

        points_BQ2 is where each point is in frame 0. frames_BQ is not used: `tasks.points` only asks for frame 0.
        """
        check_frames(features_BTMD, self.num_frames)
        queries_BQKE = self.query_net(points_BQ2)[:, :, None] + self.tile_code[...]
        outputs_BQK = self.readout(features_BTMD, rearrange(queries_BQKE, 'b q k e -> b (q k) e'))
        outputs_BQTc = rearrange(
            outputs_BQK, 'b (q k) (j c) -> b q (k j) c', q=points_BQ2.shape[1], j=self.frames_per_tile
        )[:, :, : self.num_frames]
        return jax.nn.sigmoid(outputs_BQTc[..., :2]), outputs_BQTc[..., 2], outputs_BQTc[..., 3]


class BoxReadout(nnx.Module):
    """Boxes of a clip: each query gives its box in all frames at once; no output activation."""

    def __init__(self, width, num_frames, *, channels, heads, query_width, rngs):
        self.num_frames = num_frames
        self.query_net = QueryNet(4, query_width, rngs=rngs)
        self.readout = AttentionReadout(
            width, 4 * num_frames, channels=channels, heads=heads, query_width=query_width, num_frames=num_frames,
            rngs=rngs,
        )  # fmt: skip

    def __call__(self, features_BTMD: jax.Array, boxes_BQ4: jax.Array) -> jax.Array:
        """Boxes (B, Q, T, 4) from those in frame 0, both x0, y0, x1, y1. Inside, y comes before x as in the release."""
        check_frames(features_BTMD, self.num_frames)
        outputs_BQK = self.readout(features_BTMD, self.query_net(swap_axes(boxes_BQ4)))
        return swap_axes(rearrange(outputs_BQK, 'b q (t c) -> b q t c', c=4))


def swap_axes(boxes: jax.Array) -> jax.Array:
    """Boxes x0, y0, x1, y1 as y0, x0, y1, x1, and back."""
    return boxes[..., jnp.array([1, 0, 3, 2])]


def repeat_queries(queries_BQE: jax.Array, num_frames: int) -> jax.Array:
    """The same queries for each frame: (B * T, Q, E)."""
    return repeat(queries_BQE, 'b q e -> (b t) q e', t=num_frames)


def check_frames(features_BTMD: jax.Array, num_frames: int) -> None:
    """Raise ValueError if a clip does not have the number of frames that a readout was built for."""
    if features_BTMD.shape[1] != num_frames:
        raise ValueError(f'a readout built for {num_frames} frames got {features_BTMD.shape[1]}')


def _learned(rngs, shape):
    return nnx.Param(STDDEV * nnx.initializers.normal(1.0)(rngs.params(), shape))

"""Depth of single pixels: each pixel queries the tokens of its frame (SRT decoder, as in MooG and WALT probes)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.probing.readouts.readout_layers import (
    NUM_BASES,
    CrossAttentionBlock,
    by_chunks,
    fourier_features,
    scale_norm,
)


class DepthDecoder(nnx.Module):
    """query = [Fourier(y, x), 0];  one cross-attention block over the frame's tokens;  norm;  Dense to one value.

    zeros: how many zeros follow the Fourier features; the release has as many as the features are wide.
    """

    def __init__(self, width, *, zeros, channels, heads, rngs):
        self.zeros, self.channels = zeros, channels
        query_width = 4 * NUM_BASES + zeros
        self.block = CrossAttentionBlock(query_width, width, qkv=channels, heads=heads, hidden=channels, rngs=rngs)
        self.norm = scale_norm(query_width, rngs=rngs)
        self.head = layers.Dense(query_width, 1, rngs=rngs)

    def __call__(self, features_BTMD: jax.Array, pixels_Q2: jax.Array) -> jax.Array:
        """Values (B, T, Q) at the same pixels (y, x) of every frame, coordinates in [-1, 1]."""
        tokens = rearrange(features_BTMD.astype(jnp.float32), 'b t m d -> (b t) m d')
        key, value = self.block.keys_and_values(tokens)
        queries_1QE = jnp.pad(fourier_features(pixels_Q2), ((0, 0), (0, self.zeros)))[None]
        per_query = len(tokens) * (key.shape[1] * key.shape[2] + 2 * (self.channels + queries_1QE.shape[-1]))
        outputs = by_chunks(lambda x: self.head(self.norm(self.block.read(x, key, value))), queries_1QE, per_query)
        return rearrange(outputs, '(b t) q 1 -> b t q', t=features_BTMD.shape[1])


def pixel_positions(rows: jax.Array, columns: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Coordinates (Q, 2) in [-1, 1], row-major, of rows and columns of an image with size (H, W) in pixels.

    The centers of the outermost pixels are at -1 and 1.
    """
    rows, columns = (2 * index / (length - 1) - 1 for index, length in zip((rows, columns), size, strict=True))
    return rearrange(jnp.stack(jnp.meshgrid(rows, columns, indexing='ij'), axis=-1), 'h w c -> (h w) c')

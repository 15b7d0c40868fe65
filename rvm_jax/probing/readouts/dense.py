"""Depth of single pixels: each asks the tokens of its own frame (SRT decoder, as MooG and WALT probes use it)."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers
from rvm_jax.probing.readouts.chunks import by_chunks
from rvm_jax.probing.readouts.cross_attention import CrossAttentionBlock, scale_norm
from rvm_jax.probing.readouts.fourier import NUM_BASES, fourier_features


class DepthDecoder(nnx.Module):
    """query = [Fourier(y, x), 0];  one cross-attention block over the frame's tokens;  norm;  Dense to one value.

    zeros: how many zeros follow the Fourier features; as many as the features are wide where the release used it.
    """

    def __init__(self, width, *, zeros, channels, heads, rngs):
        self.zeros, self.channels = zeros, channels
        query_width = 4 * NUM_BASES + zeros
        self.block = CrossAttentionBlock(query_width, width, qkv=channels, heads=heads, hidden=channels, rngs=rngs)
        self.norm = scale_norm(query_width, rngs=rngs)
        self.head = layers.Dense(query_width, 1, rngs=rngs)

    def __call__(self, features_BTMD, pixels_Q2):
        """Values (B, T, Q) at the same pixels (y, x) of every frame, coordinates in [-1, 1]."""
        tokens = rearrange(features_BTMD.astype(jnp.float32), 'b t m d -> (b t) m d')
        key, value = self.block.keys_and_values(tokens)
        queries_1QE = jnp.pad(fourier_features(pixels_Q2), ((0, 0), (0, self.zeros)))[None]
        per_query = len(tokens) * (key.shape[1] * key.shape[2] + 2 * (self.channels + queries_1QE.shape[-1]))
        outputs = by_chunks(lambda x: self.head(self.norm(self.block.read(x, key, value))), queries_1QE, per_query)
        return rearrange(outputs, '(b t) q 1 -> b t q', t=features_BTMD.shape[1])


def pixel_positions(rows, columns, size):
    """Coordinates (Q, 2) in [-1, 1], row-major, of these rows and columns of an image of (H, W) pixels.

    The centers of the outermost pixels are at -1 and 1.
    """
    rows, columns = (2 * index / (length - 1) - 1 for index, length in zip((rows, columns), size, strict=True))
    return rearrange(jnp.stack(jnp.meshgrid(rows, columns, indexing='ij'), axis=-1), 'h w c -> (h w) c')

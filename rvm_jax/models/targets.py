"""Visible target patches to tokens for the decoder; no hidden pixel is read on any path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers, masking, patches, positions


def fold_frames(
    encode: Callable[[jax.Array, jax.Array], jax.Array], target_BFHWC: jax.Array, visible_BFV: jax.Array
) -> jax.Array:
    """encode(pixels_BHWC, visible_BV) -> tokens_BMD for each target frame by itself, (B, F, M, D).

    Frames are folded into the batch: a target sees neither the source nor another target here.
    """
    frames = rearrange(target_BFHWC, 'b f h w c -> (b f) h w c')
    tokens = encode(frames, rearrange(visible_BFV, 'b f v -> (b f) v'))
    return rearrange(tokens, '(b f) m d -> b f m d', b=target_BFHWC.shape[0])


class LightTarget(nnx.Module):
    """A small ViT of decoder width that is trained, for frozen encoders: they have never seen masked images.

    Visible patches in [0, 1], fixed sine-cosine positions, a CLS token of its own, a few pre-norm blocks, a norm. The
    encoder then works on source frames alone, and what sees the target is thrown away after training.
    """

    def __init__(self, *, patch_size, width, depth, heads, mlp, gelu, execution, rngs):
        self.patch_size, self.width, self.tokens_dtype = patch_size, width, execution.precision.tokens
        self.patch_embed = layers.Dense(patch_size * patch_size * 3, width, rngs=rngs)
        self.cls_token = nnx.Param(0.02 * nnx.initializers.normal(1.0)(rngs.params(), (1, width)))

        def make_block(rngs):
            return layers.Block(width, heads, width // heads, mlp, gelu=gelu, execution=execution, rngs=rngs)

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, self.tokens_dtype, rngs=rngs)

    def __call__(self, pixels_BHWC: jax.Array, visible_BV: jax.Array) -> jax.Array:
        """Tokens (B, 1+V, E) of frames in [0, 1]."""
        patches_BNP = patches.to_patches(pixels_BHWC, self.patch_size)
        table_NE = jnp.asarray(positions.sincos_table(patches_BNP.shape[1], self.width))
        seen_BVP = masking.take_visible(patches_BNP, visible_BV).astype(self.tokens_dtype)
        tokens_BVE = self.patch_embed(seen_BVP) + table_NE[visible_BV].astype(self.tokens_dtype)
        cls_B1E = jnp.broadcast_to(self.cls_token[...], (len(tokens_BVE), 1, self.width)).astype(self.tokens_dtype)
        return self.norm(self.layers(jnp.concatenate([cls_B1E, tokens_BVE], axis=1)))


class FrozenTarget(nnx.Module):
    """The frozen encoder on masked target frames, and a dense layer to decoder width of its own.

    is_masked: the whole grid goes through the encoder with its own mask token at hidden patches; else the visible
    patches alone do, each with the position it has in the whole grid. The last depth is used, not the adapters: batch
    norm must not mix two populations of tokens.
    """

    def __init__(self, input_width, width, *, is_masked, execution, rngs):
        self.is_masked, self.tokens_dtype = is_masked, execution.precision.tokens
        self.embedder = layers.Dense(input_width, width, rngs=rngs)

    def __call__(self, encoder: Any, pixels_BHWC: jax.Array, visible_BV: jax.Array) -> jax.Array:
        """Tokens (B, prefix+V, E) of frames as the encoder wants them."""
        encode = encoder.encode_masked if self.is_masked else encoder.encode_visible
        return self.embedder(jax.lax.stop_gradient(encode(pixels_BHWC, visible_BV)).astype(self.tokens_dtype))

"""The image encoder of RVM: a plain ViT that reads whole frames, or only the visible patches of a masked one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import layers, masking, patches, positions
from rvm_jax.models.block_shapes import Attention, Blocks
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture


class ViT(nnx.Module):
    """One image to tokens: patches, fixed positions, CLS, pre-norm blocks, final norm (RVM, supplement Table 5).

    `encoder(pixels_BHWC) -> tokens_BMD`, pixels in [0, 1] without mean and std, M = 1 + patches, CLS first.
    """

    mean, std, num_prefix_tokens = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1

    def __init__(self, *, patch_size, width, depth, heads, head_dim, mlp, gelu, position_resize, execution, rngs):
        self.patch_size, self.width, self.position_resize = patch_size, width, position_resize
        self.num_layers = depth
        self.tokens_dtype = execution.precision.tokens
        self.patch_embed = layers.Dense(patch_size * patch_size * 3, width, rngs=rngs)
        self.cls_token = nnx.Param(0.02 * nnx.initializers.normal(1.0)(rngs.params(), (1, width)))

        def make_block(rngs):
            return layers.Block(width, heads, head_dim, mlp, gelu=gelu, execution=execution, rngs=rngs)

        self.layers = layers.Stack(make_block, depth, execution=execution, rngs=rngs)
        self.norm = layers.layer_norm(width, self.tokens_dtype, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> ViT:
        """The encoder of a model of this architecture, with fresh parameters."""
        return cls(
            patch_size=arch.patch_size,
            width=arch.width,
            depth=arch.encoder_layers,
            heads=arch.encoder_heads,
            head_dim=arch.encoder_head_dim,
            mlp=arch.encoder_mlp,
            position_resize=arch.position_resize,
            gelu=arch.gelu,
            execution=execution,
            rngs=rngs,
        )

    @classmethod
    def prefix_tokens(cls, arch: Architecture) -> int:
        """Tokens of a frame before its patches: CLS."""
        return cls.num_prefix_tokens

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """The Blocks that so many frames go through, each by itself and of num_tokens tokens."""
        attention = Attention(frames, num_tokens, num_tokens, arch.encoder_heads, arch.encoder_head_dim)
        passes = arch.encoder_layers if frames else 0
        return Blocks(passes, frames * num_tokens, arch.width, arch.encoder_mlp, (attention,))

    def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
        """Tokens of whole frames, (B, M, D)."""
        patches_BNP = patches.to_patches(pixels_BHWC, self.patch_size)
        return self._encode(self._embed(patches_BNP) + self._positions(pixels_BHWC))

    def tapped(self, pixels_BHWC: jax.Array, taps: Sequence[int], *, is_normed: bool = True) -> jax.Array:
        """Tokens after the blocks that taps names, (J, B, M, D); -1 is the embedding.

        The final norm follows each block, unless is_normed is False; never the embedding.
        """
        patches_BNP = patches.to_patches(pixels_BHWC, self.patch_size)
        tokens_BMD = self._with_cls(self._embed(patches_BNP) + self._positions(pixels_BHWC))
        blocks = tuple(tap for tap in taps if tap >= 0)
        tapped_JBMD = tokens_BMD[None][: len(taps) - len(blocks)]
        if blocks:
            after_JBMD = self.layers.tapped(tokens_BMD, blocks)
            tapped_JBMD = jnp.concatenate([tapped_JBMD, self.norm(after_JBMD) if is_normed else after_JBMD])
        return tapped_JBMD

    def encode_clip(self, pixels_BTHWC: jax.Array) -> jax.Array:
        """Tokens (B, T, M, D) of frames that all attend to each other (RVM, supplement 9: the aggregator ablation).

        The position code continues from frame to frame, as one table over T*h*w patches. Each frame has a CLS (ours: so
        every encoder gives T frames of M tokens; the paper is silent), and after the first it carries a code of the
        frame's number: equal copies would stay equal, and count T times. The final norm comes before the extra layers.
        """
        frames = rearrange(pixels_BTHWC, 'b t h w c -> t b h w c')
        codes_TD = positions.sincos_table(len(frames), self.width)
        tokens = []
        for time, frame in enumerate(frames):
            patches_BND = self._embed(patches.to_patches(frame, self.patch_size)) + self._positions(frame, time)
            tokens.append(self._with_cls(patches_BND, codes_TD[time] if time else 0.0))
        x_BKD = self.norm(self.layers(jnp.concatenate(tokens, axis=1)))
        return rearrange(x_BKD, 'b (t m) d -> b t m d', t=len(frames))

    def encode_visible(self, pixels_BHWC: jax.Array, visible_BV: jax.Array) -> jax.Array:
        """Tokens of the visible patches alone, (B, 1+V, D): hidden pixels are dropped before anything is computed."""
        patches_BVP = masking.take_visible(patches.to_patches(pixels_BHWC, self.patch_size), visible_BV)
        return self._encode(self._embed(patches_BVP) + self._positions(pixels_BHWC)[visible_BV])

    def _embed(self, patches_BNP):
        return self.patch_embed(patches_BNP.astype(self.tokens_dtype))

    def _positions(self, pixels_BHWC, frame=0):
        grid = patches.grid_size(*pixels_BHWC.shape[-3:-1], patch_size=self.patch_size)
        return jnp.asarray(positions.resized_sincos_table(grid, self.width, self.position_resize, frame))

    def _with_cls(self, tokens_BND, code_D=0.0):
        cls_B1D = jnp.broadcast_to(self.cls_token[...] + code_D, (tokens_BND.shape[0], 1, self.width))
        return jnp.concatenate([cls_B1D, tokens_BND], axis=1).astype(self.tokens_dtype)

    def _encode(self, tokens_BND):
        return self.norm(self.layers(self._with_cls(tokens_BND)))

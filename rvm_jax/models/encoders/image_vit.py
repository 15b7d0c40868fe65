"""The image encoders that are imported: pre-norm ViTs, whose variations are the values of an ImageArchitecture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import layers, masking, patches, positions
from rvm_jax.models.attention import attention
from rvm_jax.models.block_shapes import Attention, Blocks
from rvm_jax.models.encoders.image_architecture import INTERPOLATIONS
from rvm_jax.models.layers import Execution

if TYPE_CHECKING:
    from rvm_jax.models.architecture import Architecture

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'erf': functools.partial(jax.nn.gelu, approximate=False),
    'tanh': functools.partial(jax.nn.gelu, approximate=True),
    'quick': lambda x: x * jax.nn.sigmoid(1.702 * x),
    'silu': jax.nn.silu,
}


class ImageEncoder(nnx.Module):
    """One image to tokens: CLS and registers where the family has them, then patches, row-major.

    Pixels (B, H, W, 3) come normalized by `mean` and `std`; H and W are any multiples of `patch_size`, else UserError.
    """

    def __init__(self, arch, *, execution, rngs):
        self.architecture, self.mean, self.std = arch, arch.mean, arch.std
        self.patch_size, self.width, self.num_layers = arch.patch_size, arch.width, arch.layers
        self.num_prefix_tokens, self.has_mask_token = arch.num_prefix_tokens, arch.mask_token
        self.tokens_dtype = execution.precision.tokens
        norm = functools.partial(layers.layer_norm, arch.width, self.tokens_dtype, epsilon=arch.epsilon, rngs=rngs)

        def table(rows):
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, arch.width))) if rows else None

        self.patch_embed = layers.Dense(arch.patch_size**2 * 3, arch.width, use_bias=arch.patch_bias, rngs=rngs)
        self.cls_token, self.register_tokens = table(int(arch.cls)), table(arch.registers)
        self.mask_token = table(int(arch.mask_token))
        self.position_table = table(arch.position_grid and arch.cls + int(np.prod(arch.position_grid)))
        self.pre_norm = norm() if arch.pre_norm else None
        self.layers = layers.Stack(
            lambda rngs: ImageBlock(arch, execution=execution, rngs=rngs), arch.layers, execution=execution, rngs=rngs
        )
        self.norm = norm() if arch.final_norm else None

    @classmethod
    def from_architecture(cls, arch: Architecture, *, execution: Execution, rngs: nnx.Rngs) -> ImageEncoder:
        """The encoder of a model of this architecture, with fresh parameters."""
        return cls(arch.image_encoder, execution=execution, rngs=rngs)

    @staticmethod
    def prefix_tokens(arch: Architecture) -> int:
        """Tokens of a frame before its patches: CLS and registers."""
        image: Any = arch.image_encoder
        return image.num_prefix_tokens

    @staticmethod
    def shapes(arch: Architecture, frames: int, num_tokens: int) -> Blocks:
        """The Blocks that so many frames go through, each by itself and of num_tokens tokens."""
        image: Any = arch.image_encoder
        attention = Attention(frames, num_tokens, num_tokens, image.heads, image.head_dim)
        passes, tokens, is_rotated = image.layers if frames else 0, frames * num_tokens, bool(image.rope_periods)
        return Blocks(passes, tokens, image.width, image.mlp, (attention,), image.gated, is_rotated)

    @layers.compiled
    def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
        """Tokens (B, M, D) after the final norm; of CLIP as they are, since its norm is for the pooled CLS alone."""
        tokens_BMD = self._encode(*self._start(pixels_BHWC))
        return tokens_BMD if self.norm is None else self.norm(tokens_BMD)

    @layers.compiled
    def hidden_states(self, pixels_BHWC: jax.Array) -> list[jax.Array]:
        """Embeddings, then the output of each block, before the final norm: a list of layers + 1 times (B, M, D)."""
        tokens_BMD, rotation = self._start(pixels_BHWC)

        def apply(block, tokens_BMD, _):
            tokens_BMD = block(tokens_BMD, rotation)
            return tokens_BMD, tokens_BMD

        return [tokens_BMD, *self.layers.fold(apply, tokens_BMD)[1]]

    def tapped(self, pixels_BHWC: jax.Array, taps: Sequence[int], *, is_normed: bool = True) -> jax.Array:
        """Outputs of the blocks that taps names, ascending from 0, each after the final norm: (J, B, M, D).

        Tap -1 is the embeddings, not normed; with is_normed=False no block is. CLIP's are normed without parameters,
        see `__call__`.
        """
        tokens_BMD, rotation = self._start(pixels_BHWC)
        blocks = tuple(tap for tap in taps if tap >= 0)
        tapped_JBMD = tokens_BMD[None][: len(taps) - len(blocks)]
        if blocks:
            after_JBMD = self.layers.tapped(tokens_BMD, blocks, rotation)
            tapped_JBMD = jnp.concatenate([tapped_JBMD, self._finish(after_JBMD) if is_normed else after_JBMD])
        return tapped_JBMD

    def encode_visible(self, pixels_BHWC: jax.Array, visible_BV: jax.Array) -> jax.Array:
        """Tokens of the visible patches alone, (B, prefix+V, D): the others are dropped before anything is computed.

        Positions are those in the whole grid. Normed as in `tapped`.
        """
        grid = self._grid(pixels_BHWC)
        patches_BVP = masking.take_visible(patches.to_patches(pixels_BHWC, self.patch_size), visible_BV)
        places_ND, rotation = self._places(grid), self._rotation(grid, visible_BV)
        tokens_BMD = self._join(self._embed(patches_BVP), None if places_ND is None else places_ND[visible_BV])
        return self._finish(self._encode(tokens_BMD, rotation))

    def encode_masked(self, pixels_BHWC: jax.Array, visible_BV: jax.Array) -> jax.Array:
        """The same tokens, (B, prefix+V, D), where the whole grid is encoded with the mask token at hidden patches."""
        grid = self._grid(pixels_BHWC)
        tokens_BND = self._embed(patches.to_patches(pixels_BHWC, self.patch_size))
        is_hidden_BN1 = masking.hidden_mask(visible_BV, tokens_BND.shape[1])[..., None] > 0
        tokens_BND = jnp.where(is_hidden_BN1, self.mask_token[...].astype(tokens_BND.dtype), tokens_BND)
        tokens_BMD = self._encode(self._join(tokens_BND, self._places(grid)), self._rotation(grid))
        prefix = self.num_prefix_tokens
        seen_BVD = masking.take_visible(tokens_BMD[:, prefix:], visible_BV)
        return self._finish(jnp.concatenate([tokens_BMD[:, :prefix], seen_BVD], axis=1))

    def _start(self, pixels_BHWC):
        """Embeddings (B, M, D) of whole images, and the rotation that their attention wants."""
        grid = self._grid(pixels_BHWC)
        tokens_BND = self._embed(patches.to_patches(pixels_BHWC, self.patch_size))
        return self._join(tokens_BND, self._places(grid)), self._rotation(grid)

    def _grid(self, pixels_BHWC):
        shape, is_float = pixels_BHWC.shape, jnp.issubdtype(pixels_BHWC.dtype, jnp.floating)
        if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < self.patch_size or not is_float:
            raise UserError(
                f'pixels of shape {shape} and {pixels_BHWC.dtype}',
                f'expected (B, H, W, 3) floats with at least {self.patch_size} pixels a side',
                'scale to [0, 1], take off the mean and divide by the deviation of the encoder',
            )
        return patches.grid_size(*shape[1:3], patch_size=self.patch_size)

    def _embed(self, patches_BNP):
        return self.patch_embed(patches_BNP.astype(self.tokens_dtype))

    def _places(self, grid):
        """The learned position of each patch of a grid, (N, D) float32, or None."""
        arch = self.architecture
        if self.position_table is None:
            return None
        table_ND = self.position_table[...][arch.cls :].astype(jnp.float32)
        if grid == tuple(arch.position_grid):
            return table_ND
        method, offset = INTERPOLATIONS[arch.interpolation]
        rows, columns = (
            jnp.asarray(positions.resize_weights(*sizes, method, offset), jnp.float32)
            for sizes in zip(arch.position_grid, grid, strict=True)
        )
        table_hwD = table_ND.reshape(*arch.position_grid, arch.width)
        resized = jnp.einsum('ah,bw,hwd->abd', rows, columns, table_hwD, precision=jax.lax.Precision.HIGHEST)
        return resized.reshape(-1, arch.width)

    def _rotation(self, grid, visible_BV=None):
        """Cosine and sine of each token's RoPE angles, (B, M, 1, d) float32 or with B=1 for all patches; or None."""
        if not self.architecture.rope_periods:
            return None
        angles_1Nd = jnp.asarray(positions.rope_angles(grid, self.architecture.rope_periods), jnp.float32)[None]
        angles_BNd = angles_1Nd if visible_BV is None else angles_1Nd[0][visible_BV]
        angles_BMd = jnp.pad(angles_BNd, ((0, 0), (self.num_prefix_tokens, 0), (0, 0)))  # the prefix is not turned
        return jnp.cos(angles_BMd)[:, :, None], jnp.sin(angles_BMd)[:, :, None]

    def _join(self, tokens_BND, places):
        """CLS, registers and patches, with positions where there is a table: not for registers."""
        prefix = [
            token[...].astype(jnp.float32) for token in (self.cls_token, self.register_tokens) if token is not None
        ]
        if places is not None:
            tokens_BND = tokens_BND + places.astype(tokens_BND.dtype)
            if self.cls_token is not None:
                prefix[0] = prefix[0] + self.position_table[...][:1]
        whole = [jnp.broadcast_to(token, (len(tokens_BND), *token.shape)).astype(tokens_BND.dtype) for token in prefix]
        tokens_BMD = jnp.concatenate([*whole, tokens_BND], axis=1)
        return tokens_BMD if self.pre_norm is None else self.pre_norm(tokens_BMD)

    def _encode(self, tokens_BMD, rotation):
        return self.layers(tokens_BMD, rotation)

    def _finish(self, tokens):
        if self.norm is not None:
            return self.norm(tokens)
        normed = jax.nn.standardize(tokens.astype(jnp.float32), epsilon=self.architecture.epsilon)
        return normed.astype(tokens.dtype)


class ImageBlock(nnx.Module):
    """Pre-norm block; either half may end in a factor for each channel (layer scale)."""

    def __init__(self, arch, *, execution, rngs):
        norm = functools.partial(layers.layer_norm, arch.width, execution.precision.block, epsilon=arch.epsilon)
        self.attention_norm = norm(rngs=rngs)
        self.attention = ImageAttention(arch, execution=execution, rngs=rngs)
        self.attention_scale = LayerScale(arch.width) if arch.layer_scale else None
        self.mlp_norm = norm(rngs=rngs)
        self.mlp = ImageMLP(arch, rngs=rngs)
        self.mlp_scale = LayerScale(arch.width) if arch.layer_scale else None

    def __call__(self, x_BMD: jax.Array, rotation: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Returns (B, M, D)."""
        y_BMD = self.attention(self.attention_norm(x_BMD), rotation)
        x_BMD = x_BMD + (y_BMD if self.attention_scale is None else self.attention_scale(y_BMD))
        y_BMD = self.mlp(self.mlp_norm(x_BMD))
        return x_BMD + (y_BMD if self.mlp_scale is None else self.mlp_scale(y_BMD))


class ImageAttention(nnx.Module):
    """Multi-head self-attention; query and key are turned by their positions where the family has RoPE."""

    def __init__(self, arch, *, execution, rngs):
        self.execution = execution
        heads = (arch.heads, arch.head_dim)
        self.query = layers.Dense(arch.width, heads, use_bias=arch.query_bias, rngs=rngs)
        self.key = layers.Dense(arch.width, heads, use_bias=arch.key_bias, rngs=rngs)
        self.value = layers.Dense(arch.width, heads, use_bias=arch.value_bias, rngs=rngs)
        self.out = layers.Dense(heads, arch.width, use_bias=arch.out_bias, rngs=rngs)

    def __call__(self, x_BMD: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """rotation: cosine and sine for each token and channel, (B, M, 1, d), or None. Returns (B, M, D)."""
        query_BMHd, key_BMHd = self.query(x_BMD), self.key(x_BMD)
        if rotation is not None:
            query_BMHd, key_BMHd = _rotate(query_BMHd, *rotation), _rotate(key_BMHd, *rotation)
        return self.out(attention(query_BMHd, key_BMHd, self.value(x_BMD), self.execution))


class ImageMLP(nnx.Module):
    """Two dense layers with an activation between them, or three where it is gated."""

    def __init__(self, arch, *, rngs):
        self.activation = arch.activation
        self.dense_in = layers.Dense(arch.width, arch.mlp, use_bias=arch.mlp_bias, rngs=rngs)
        self.gate = layers.Dense(arch.width, arch.mlp, use_bias=arch.mlp_bias, rngs=rngs) if arch.gated else None
        self.dense_out = layers.Dense(arch.mlp, arch.width, use_bias=arch.mlp_bias, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., D) -> (..., D)."""
        activation, hidden = ACTIVATIONS[self.activation], self.dense_in(x)
        return self.dense_out(activation(hidden) if self.gate is None else activation(self.gate(x)) * hidden)


class LayerScale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, width):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., D) -> (..., D)."""
        return x * self.scale[...].astype(x.dtype)


def _rotate(x_BMHd, cos, sin):
    """Turn the pairs (i, i + d/2) of channels, in float32."""
    x = x_BMHd.astype(jnp.float32)
    first, second = jnp.split(x, 2, axis=-1)
    return (x * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x_BMHd.dtype)

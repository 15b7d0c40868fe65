"""Frames to patches and back. A patch is flattened as (row, column, channel), channel fastest, as released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange

if TYPE_CHECKING:
    import jax


def grid_size(height: int, width: int, *, patch_size: int) -> tuple[int, int]:
    """Rows and columns of whole patches; what is left at the bottom and the right is dropped."""
    return height // patch_size, width // patch_size


def to_patches(pixels_BHWC: jax.Array, patch_size: int) -> jax.Array:
    """Cut frames (..., H, W, C) into patches (..., N, P*P*C), row-major; incomplete patches are dropped."""
    h, w = grid_size(*pixels_BHWC.shape[-3:-1], patch_size=patch_size)
    whole = pixels_BHWC[..., : h * patch_size, : w * patch_size, :]
    return rearrange(whole, '... (h p) (w q) c -> ... (h w) (p q c)', p=patch_size, q=patch_size)


def to_pixels(patches_BNP: jax.Array, grid: tuple[int, int], patch_size: int) -> jax.Array:
    """Lay patches (..., N, P*P*C) out as frames (..., H, W, C)."""
    h, w = grid
    return rearrange(patches_BNP, '... (h w) (p q c) -> ... (h p) (w q) c', h=h, w=w, p=patch_size, q=patch_size)

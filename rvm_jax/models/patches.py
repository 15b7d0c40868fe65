"""Frames to patches and back. A patch is flattened as (row, column, channel), channel fastest, as released."""

from einops import rearrange


def grid_size(height, width, patch_size):
    """Rows and columns of whole patches; what is left at the bottom and the right is dropped."""
    return height // patch_size, width // patch_size


def to_patches(pixels_BHWC, patch_size):
    """Cut frames (..., H, W, C) into patches (..., N, P*P*C), row-major; incomplete patches are dropped."""
    h, w = grid_size(*pixels_BHWC.shape[-3:-1], patch_size)
    whole = pixels_BHWC[..., : h * patch_size, : w * patch_size, :]
    return rearrange(whole, '... (h p) (w q) c -> ... (h w) (p q c)', p=patch_size, q=patch_size)


def to_pixels(patches_BNP, grid, patch_size):
    """Lay patches (..., N, P*P*C) out as frames (..., H, W, C)."""
    h, w = grid
    return rearrange(patches_BNP, '... (h w) (p q c) -> ... (h p) (w q) c', h=h, w=w, p=patch_size, q=patch_size)

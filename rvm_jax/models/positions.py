"""Fixed position codes: the sine-cosine table of RVM and how it is resized. NumPy, as constants of the program."""

import functools

import numpy as np

BASE_GRID = (16, 16)  # the released models' table, resized for every other grid


@functools.lru_cache(maxsize=64)
def sincos_table(num_positions, width):
    """Sine and cosine of a one-dimensional position, interleaved over channels, (N, D) float32.

    Position p is the flattened grid index (row-major), not a separable 2-D code: that is what was released.
    """
    frequencies = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(num_positions)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_positions, width).astype(np.float32)


@functools.lru_cache(maxsize=64)
def resized_sincos_table(grid, width, method):
    """The 16x16 table resized to grid (h, w), flattened to (N, D) float32; method as in `resize_grid`."""
    table_hwD = sincos_table(BASE_GRID[0] * BASE_GRID[1], width).reshape(*BASE_GRID, width)
    return resize_grid(table_hwD, grid, method).reshape(-1, width)


def resize_grid(table_hwD, grid, method):
    """Resize a table (h, w, D) to another grid by separable cubic interpolation.

    'jax': Keys' kernel with a=-0.5, widened when shrinking (antialias), weights renormalized at the border; equals
    jax.image.resize and the release. 'torch': a=-0.75, no antialias, border cells repeated, as in PyTorch.
    """
    for axis, size in enumerate(grid):
        if size != table_hwD.shape[axis]:
            weights = _cubic_weights(table_hwD.shape[axis], size, method)
            table_hwD = np.moveaxis(np.tensordot(weights, table_hwD, axes=(1, axis)), 0, axis)
    return table_hwD.astype(np.float32)


def _cubic_weights(size_in, size_out, method):
    """Weight of each input cell for each output cell, (out, in), float64."""
    a, widen = (-0.5, max(size_in / size_out, 1.0)) if method == 'jax' else (-0.75, 1.0)
    centers = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    reach = int(np.ceil(2 * widen)) + 1
    cells = np.arange(-reach, size_in + reach)
    x = np.abs(centers[:, None] - cells) / widen
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    inside = weights[:, reach : reach + size_in]
    if method == 'torch':
        inside[:, 0] += weights[:, :reach].sum(1)
        inside[:, -1] += weights[:, reach + size_in :].sum(1)
    return inside / inside.sum(1, keepdims=True)

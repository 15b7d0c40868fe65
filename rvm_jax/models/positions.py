"""Fixed position codes: the sine-cosine table of RVM and how it is resized. NumPy, as constants of the program."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

BASE_GRID = (16, 16)  # the released models' table, resized for every other grid


@functools.lru_cache(maxsize=64)
def sincos_table(num_positions: int, width: int) -> np.ndarray:
    """Sine and cosine of a one-dimensional position, interleaved over channels, (N, D) float32.

    Position p is the flattened grid index (row-major), not a separable 2-D code: that is what was released.
    """
    frequencies = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(num_positions)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_positions, width).astype(np.float32)


@functools.lru_cache(maxsize=64)
def resized_sincos_table(grid: tuple[int, int], width: int, method: str, frame: int = 0) -> np.ndarray:
    """The 16x16 table resized to grid (h, w), flattened to (N, D) float32; method as in `resize_grid`.

    frame: positions continue from one frame of a clip to the next.
    """
    size = BASE_GRID[0] * BASE_GRID[1]
    table_hwD = sincos_table((frame + 1) * size, width)[-size:].reshape(*BASE_GRID, width)
    return resize_grid(table_hwD, grid, method).reshape(-1, width)


def resize_grid(table_hwD: np.ndarray, grid: tuple[int, int], method: str) -> np.ndarray:
    """Resize a table (h, w, D) to another grid by separable cubic interpolation.

    'jax': Keys' kernel with a=-0.5, widened when shrinking (antialias), weights renormalized at the border; equals
    jax.image.resize and the release. 'torch': a=-0.75, no antialias, border cells repeated, as in PyTorch.
    """
    for axis, size in enumerate(grid):
        if size != table_hwD.shape[axis]:
            weights = resize_weights(table_hwD.shape[axis], size, method)
            table_hwD = np.moveaxis(np.tensordot(weights, table_hwD, axes=(1, axis)), 0, axis)
    return table_hwD.astype(np.float32)


def resize_weights(size_in: int, size_out: int, method: str, offset: float = 0.0) -> np.ndarray:
    """Weight of each input cell for each output cell along one axis, (out, in), float64.

    method as in `resize_grid`, or 'linear': linear and widened when shrinking, as in PyTorch with antialias. The scale
    is (size_out + offset) / size_in.
    """
    scale = (size_out + offset) / size_in
    widen = max(1 / scale, 1.0) if method != 'torch' else 1.0
    centers = (np.arange(size_out) + 0.5) / scale - 0.5
    reach = int(np.ceil(2 * widen)) + 1
    cells = np.arange(-reach, size_in + reach)
    weights = KERNELS[method](np.abs(centers[:, None] - cells) / widen)
    inside = weights[:, reach : reach + size_in]
    if method == 'torch':
        inside[:, 0] += weights[:, :reach].sum(1)
        inside[:, -1] += weights[:, reach + size_in :].sum(1)
    return inside / inside.sum(1, keepdims=True)


def _cubic(a, x):
    """Keys' cubic convolution kernel at distances x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'jax': functools.partial(_cubic, -0.5),
    'torch': functools.partial(_cubic, -0.75),
    'linear': lambda x: np.maximum(1 - x, 0.0),
}


def rope_periods(head_dim: int, theta: float) -> tuple[float, ...]:
    """Periods of axial RoPE, theta^(4i/d) for i below d/4, as a tuple."""
    return tuple(float(theta ** (4 * i / head_dim)) for i in range(head_dim // 4))


def rope_angles(grid: tuple[int, int], periods: Sequence[float]) -> np.ndarray:
    """Angles of axial RoPE for each patch of grid (h, w), row-major: (N, d) float64, d = 4 * len(periods).

    Rows, then columns, are 2 pi / period times a coordinate in (-1, 1), whatever the size of the grid; channels of
    the second half have the angles of the first, with which they are paired (DINOv3).
    """
    rows, columns = ((2 * np.arange(size) + 1) / size - 1 for size in grid)
    coordinates_N2 = np.stack(np.meshgrid(rows, columns, indexing='ij'), axis=-1).reshape(-1, 2)
    angles = 2 * np.pi * coordinates_N2[:, :, None] / np.asarray(periods)
    return np.tile(angles.reshape(len(coordinates_N2), -1), 2)

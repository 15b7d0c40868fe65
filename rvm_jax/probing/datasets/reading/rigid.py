"""Rotations and poses of cameras and things, as matrices."""

import numpy as np


def rotations(quaternions_X4):
    """(..., 3, 3) of quaternions w, x, y, z of any length but 0."""
    quaternions_X4 = np.asarray(quaternions_X4, np.float64)
    w, x, y, z = np.moveaxis(quaternions_X4 / np.linalg.norm(quaternions_X4, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def poses(rotations_X33, translations_X3):
    """(..., 4, 4) that take p to R p + t. ValueError if one of these numbers is none."""
    poses_X44 = np.zeros((*np.shape(rotations_X33)[:-2], 4, 4))
    poses_X44[..., :3, :3], poses_X44[..., :3, 3], poses_X44[..., 3, 3] = rotations_X33, translations_X3, 1
    if not np.isfinite(poses_X44).all():
        raise ValueError('a pose is not finite')
    return poses_X44

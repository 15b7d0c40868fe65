"""Errors of camera motion."""

import itertools

import numpy as np

# Corners of a cube of side 1 whose center is 2 in front of the first camera (z is forward), in the unit of t. The
# papers do not give the cube, so errors only compare between probes that use the same one.
CUBE_83 = np.array(list(itertools.product((-0.5, 0.5), (-0.5, 0.5), (1.5, 2.5))))


def nearest_rotation(m_X33: np.ndarray) -> np.ndarray:
    """The rotations nearest to 3 x 3 matrices (orthogonal Procrustes), never reflections."""
    u_X33, _, vt_X33 = np.linalg.svd(np.asarray(m_X33, np.float64))
    flips_X3 = np.ones(u_X33.shape[:-1])
    flips_X3[..., 2] = np.linalg.det(u_X33 @ vt_X33)
    return (u_X33 * flips_X3[..., None, :]) @ vt_X33


def corner_error(predicted_34: np.ndarray, truth_34: np.ndarray) -> float:
    """Mean distance (EPE) between the corners of a virtual cube moved by the two poses, in the unit of t.

    A pose is [R|t]. The predicted R may be any matrix: the nearest rotation is taken.
    """
    predicted_34, truth_34 = np.asarray(predicted_34, np.float64), np.asarray(truth_34, np.float64)
    moved_83 = CUBE_83 @ nearest_rotation(predicted_34[:, :3]).T + predicted_34[:, 3]
    true_83 = CUBE_83 @ truth_34[:, :3].T + truth_34[:, 3]
    return float(np.mean(np.linalg.norm(moved_83 - true_83, axis=-1)))


def translation_error(predicted_T3: np.ndarray, truth_T3: np.ndarray, known_T: np.ndarray) -> tuple[float, float]:
    """(mean, root mean square) in millimeters of the distance between translations given in meters.

    All known frames count except frame 0, which has no frame before it. (nan, nan) if there are none.
    """
    known_T = np.array(known_T, bool)
    known_T[0] = False
    if not known_T.any():
        return float('nan'), float('nan')
    difference_T3 = np.asarray(predicted_T3, np.float64)[known_T] - np.asarray(truth_T3, np.float64)[known_T]
    distance_T = 1000 * np.linalg.norm(difference_T3, axis=-1)
    return float(np.mean(distance_T)), float(np.sqrt(np.mean(distance_T**2)))

"""Tracks of surface points in a rendered scene, from its depth, segments and poses (Kubric's point tracking challenge).

A pixel of the first frame gives a point in the world. The point moves with the object that it is on, the background
does not move, and the camera of every frame sees it somewhere. It is hidden if the picture shows something nearer
there, or another object.

Kubric takes the point of an object from object_coordinates. Here it follows from depth and pose, which is the same
point and one rule for objects and background. Kubric's test of normals, for surfaces that turn away, is left out: depth
and segments already hide all but grazing surfaces.
"""

import dataclasses

import numpy as np

from rvm_jax.probing.datasets.reading.transforms import rotations

NEARER = 0.99  # if the depth is below this share of the distance of a point, something else is in front


@dataclasses.dataclass(frozen=True)
class Camera:
    """focal: focal length over width; positions_T3 and rotations_T33: camera to world, x right, y up, z backward."""

    focal: float
    positions_T3: np.ndarray
    rotations_T33: np.ndarray

    def project(self, points_QT3: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x and y in [0, 1] of the frame (Q, T, 2), distances (Q, T), and whether points are in front of it (Q, T).

        aspect is width / height.
        """
        rays_QT3 = points_QT3 - self.positions_T3
        x, y, z = np.moveaxis(np.einsum('tji,qtj->qti', self.rotations_T33, rays_QT3), -1, 0)
        in_front_QT = z < -1e-6
        scale = self.focal / np.where(in_front_QT, -z, 1)
        return np.stack([0.5 + scale * x, 0.5 - scale * y * aspect], -1), np.linalg.norm(rays_QT3, axis=-1), in_front_QT

    def unproject(self, points_Q2: np.ndarray, distances_Q: np.ndarray, aspect: float) -> np.ndarray:
        """World coordinates (Q, 3) of points that are seen at points_Q2 in frame 0."""
        x, y = (points_Q2.T - 0.5) / self.focal
        rays_Q3 = np.stack([x, -y / aspect, -np.ones_like(x)], -1)
        rays_Q3 *= (distances_Q / np.linalg.norm(rays_Q3, axis=-1))[:, None]
        return self.positions_T3[0] + rays_Q3 @ self.rotations_T33[0].T


def choose_pixels(
    rng: np.random.Generator,
    segments_HW: np.ndarray,
    box: tuple[int, int, int, int],
    count: int,
    *,
    stride: int = 4,
    max_share: float = 0.1,
) -> np.ndarray:
    """At most count pixels (Q, 2), row and column, of a grid with a random offset in box (top, left, height, width).

    Objects get equal shares if possible, the smallest object first; each gives at most max_share of its grid pixels.
    """
    top, left, height, width = box
    first_row, first_column = top + rng.integers(min(stride, height)), left + rng.integers(min(stride, width))
    grid = np.mgrid[first_row : top + height : stride, first_column : left + width : stride].reshape(2, -1).T
    ids = segments_HW[tuple(grid.T)]
    names, counts = np.unique(ids, return_counts=True)
    chosen, wanted = [], count
    for done, place in enumerate(np.argsort(counts, kind='stable')):
        share = min(round(wanted / (len(names) - done)), round(counts[place] * max_share))
        chosen.append(rng.choice(grid[ids == names[place]], share, replace=False))
        wanted -= share
    return np.concatenate(chosen)


def track(
    pixels_Q2: np.ndarray,
    depth_THW: np.ndarray,
    segments_THW: np.ndarray,
    positions_KT3: np.ndarray,
    quaternions_KT4: np.ndarray,
    *,
    camera: Camera,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tracks_QT2 in [0, 1] of the frame, visible_QT, in_front_QT) of pixels of frame 0.

    depth is the distance from the camera's center; segments are 0 for the background, k + 1 for object k. A point
    behind the camera keeps its place of frame 0. visible does not consider the edges of the frame.
    """
    height, width = depth_THW.shape[1:]
    aspect = width / height
    rows, columns = pixels_Q2.T
    points_Q2 = (np.stack([columns, rows], -1) + 0.5) / (width, height)
    world_Q3 = camera.unproject(points_Q2, depth_THW[0, rows, columns], aspect)
    segments_Q = segments_THW[0, rows, columns].astype(int)
    world_QT3 = _carried(world_Q3, segments_Q, positions_KT3, rotations(quaternions_KT4))
    tracks_QT2, distances_QT, in_front_QT = camera.project(world_QT3, aspect)
    tracks_QT2 = np.where(in_front_QT[..., None], tracks_QT2, points_Q2[:, None])
    depth_QT4, ids_QT4 = _around(tracks_QT2, depth_THW), _around(tracks_QT2, segments_THW)
    is_hidden_QT = depth_QT4.max(-1) < NEARER * distances_QT
    is_hidden_QT |= (ids_QT4 != segments_Q[:, None, None]).all(-1)
    return tracks_QT2.astype(np.float32), in_front_QT & ~is_hidden_QT, in_front_QT


def _carried(world_Q3, segments_Q, positions_KT3, rotations_KT33):
    """(Q, T, 3): points that are at world_Q3 in frame 0, moved with their objects."""
    # Object 0 is the background, which never moves.
    positions = np.concatenate([np.zeros_like(positions_KT3[:1]), positions_KT3])[segments_Q]
    still = np.broadcast_to(np.eye(3), (1, *rotations_KT33.shape[1:]))
    turned = np.concatenate([still, rotations_KT33])[segments_Q]
    local_Q3 = np.einsum('qji,qj->qi', turned[:, 0], world_Q3 - positions[:, 0])
    return np.einsum('qtij,qj->qti', turned, local_Q3) + positions


def _around(tracks_QT2, maps_THW):
    """(Q, T, 4): values of the four pixels whose centers surround each point; at the edges, of the nearest pixels."""
    num_frames, height, width = maps_THW.shape
    place = np.floor(tracks_QT2 * (width, height) - 0.5).clip(-1, max(height, width)).astype(int)
    column, row = place[..., 0], place[..., 1]
    rows = np.stack([row, row, row + 1, row + 1], -1).clip(0, height - 1)
    columns = np.stack([column, column + 1, column, column + 1], -1).clip(0, width - 1)
    return maps_THW[np.arange(num_frames)[:, None], rows, columns]

"""What is in a synthetic scene and how it moves; `render.py` paints it and computes its ground truth.

Coordinates are x, y in pixels from the top left corner of the frame, so the center of the first pixel is (0.5, 0.5); y
points down and a positive angle turns clockwise on screen. The camera moves the background; the motion of a shape is
its motion on screen. Every motion has a constant rate, except that the other shapes bounce softly off the frame.
"""

import dataclasses

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.synthetic import sprites

CLASSES = ('left', 'right', 'up', 'down', 'clockwise', 'counterclockwise', 'grow', 'shrink')
HEADINGS = {'right': 0.0, 'down': 0.5 * np.pi, 'left': np.pi, 'up': 1.5 * np.pi}  # radians
TILE_SIDES = 2.0  # the background repeats after this many times the frame's shorter side
SHAPE_SIZE = 0.27  # radius of a shape at depth 1, as a fraction of the frame's shorter side
BOUNCE_FRAMES = 7  # a bounce is spread over this many frames


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape: its looks (`sprites.random_sprite`) and its pose on screen in every frame."""

    sprite_HWC: np.ndarray
    centers_T2: np.ndarray  # x, y in pixels
    angles_T: np.ndarray  # radians
    radii_T: np.ndarray  # pixels
    depth: float
    points_N2: np.ndarray  # tracked points, in units of the radius, before turning


@dataclasses.dataclass(frozen=True)
class Scene:
    """Shapes in painting order, each in front of those before it, over a background moved by the camera."""

    height: int
    width: int
    shapes: tuple
    background_HWC: np.ndarray  # one period of the texture, RGB in [0, 1]
    background_points_N2: np.ndarray  # x, y in pixels in frame 0, where they may lie outside the frame
    cameras_T23: np.ndarray  # takes a background point of frame 0 to frame t
    camera_step_4: np.ndarray  # dx, dy (pixels), turn (radians), log zoom: from a frame to the next, about the middle
    motion_class: int  # index into CLASSES of the motion of the last shape, the nearest and largest


def random_scene(
    rng: np.random.Generator,
    num_frames: int = 64,
    height: int = 64,
    width: int = 64,
    *,
    num_objects: int = 4,
    speed: tuple[float, float] = (0.6, 1.6),
    camera_speed: tuple[float, float] = (1.0, 1.8),
    wavelength: float = 24.0,
    motion_class: int | None = None,
    points_per_object: int = 6,
    background_points: int = 12,
) -> Scene:
    """Draw shapes that drift, turn, scale and bounce over a background that pans, turns and zooms.

    speed and camera_speed are ranges in pixels per frame and wavelength is the grain of the background in pixels, all
    three for a frame whose shorter side is 64 pixels: they grow with the frame.
    motion_class is an index into CLASSES, drawn where it is None. Opposite classes are each other played backwards, so
    frames without their order do not tell them apart.
    """
    # The order of the draws is part of the videos: another order would give other videos from the same seed.
    if num_objects < 1:
        raise UserError(num_objects, 'a scene needs at least one object', 'set num_objects to 1 or more')
    if motion_class is None:
        motion_class = int(rng.integers(len(CLASSES)))
    hue = rng.uniform()
    cycles = TILE_SIDES * 64 / wavelength
    texture_HWC = sprites.random_texture(rng, hue, cycles, saturation=(0.4, 0.75), brightness=(0.2, 0.55, 0.95))
    camera_step_4 = _camera_step(rng, camera_speed, height, width)
    cameras_T23 = _camera_path(camera_step_4, num_frames, height, width)
    shapes = []
    for kind, hue_k, depth in _layers(rng, hue, num_objects, CLASSES[motion_class]):
        path = _path(rng, kind, num_frames, height, width, speed)
        shapes.append(_shape(rng, hue_k, depth, path, min(height, width) * SHAPE_SIZE / depth, points_per_object))
    return Scene(
        height=height,
        width=width,
        shapes=tuple(shapes),
        background_HWC=texture_HWC,
        background_points_N2=_background_points(rng, background_points, cameras_T23, height, width),
        cameras_T23=cameras_T23,
        camera_step_4=camera_step_4,
        motion_class=motion_class,
    )


def _camera_step(rng, speed, height, width):
    """What the camera does from a frame to the next: dx, dy (pixels), turn (radians), log zoom."""
    velocity_2 = _velocity(rng, speed, min(height, width) / 64)
    return np.append(velocity_2, rng.uniform((-0.015, -0.008), (0.015, 0.008)))


def _layers(rng, hue, num_objects, motion):
    """[(motion, hue, depth)] of the shapes, from far to near; only the nearest has a motion of CLASSES, else None."""
    far_to_near = np.append(np.sort(rng.uniform(1.4, 2.6, size=num_objects - 1))[::-1], rng.uniform(1.0, 1.3))
    # Hues keep their distance from the background's and from each other's.
    hues = hue + 0.5 + 0.55 * ((rng.permutation(num_objects) + 0.5) / num_objects - 0.5)
    motions = [None] * (num_objects - 1) + [motion]
    return list(zip(motions, hues % 1, far_to_near, strict=True))


def _path(rng, motion, num_frames, height, width, speed):
    """centers_T2, angles_T, scales_T of a shape."""
    if motion is None:
        return _free_path(rng, num_frames, height, width, speed)
    return _class_path(rng, motion, num_frames, height, width, speed)


def rotation(angle: float | np.ndarray) -> np.ndarray:
    """The 2 x 2 matrix, or (..., 2, 2) matrices, that turn x, y by angle radians, clockwise on screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def _shape(rng, hue, depth, path, radius, num_points):
    centers_T2, angles_T, scales_T = path
    sprite_HWC = sprites.random_sprite(rng, hue, cycles=1.6)
    return Shape(
        sprite_HWC=sprite_HWC,
        centers_T2=centers_T2,
        angles_T=angles_T,
        radii_T=radius * rng.uniform(0.88, 1.12) * scales_T,
        depth=float(depth),
        points_N2=sprites.random_points(rng, sprite_HWC, num_points),
    )


def _class_path(rng, name, num_frames, height, width, speed):
    """centers_T2, angles_T, scales_T of the nearest shape: one motion stands out, the others stay small.

    It passes the middle of the frame half way through, and long clips move more slowly: it never leaves the frame.
    """
    unit = min(height, width) / 64
    times_T = np.arange(num_frames) - (num_frames - 1) / 2
    velocity_2, spin, growth = _velocity(rng, (0, 0.1), unit), rng.uniform(-0.012, 0.012), rng.uniform(-0.002, 0.002)
    if name in HEADINGS:
        heading = HEADINGS[name] + rng.uniform(-0.25, 0.25)
        pace = min(unit * rng.uniform(*speed), 0.85 * min(height, width) / num_frames)
        velocity_2 = pace * np.array([np.cos(heading), np.sin(heading)])
    elif name in ('clockwise', 'counterclockwise'):
        spin = rng.uniform(0.06, 0.12) * (1 if name == 'clockwise' else -1)
    else:
        growth = min(rng.uniform(0.012, 0.02), 1.2 / num_frames) * (1 if name == 'grow' else -1)
    middle_2 = np.array([width, height]) * rng.uniform(0.4, 0.6, size=2)
    centers_T2 = middle_2 + times_T[:, None] * velocity_2
    return centers_T2, rng.uniform(0, 2 * np.pi) + spin * times_T, np.exp(growth * times_T)


def _free_path(rng, num_frames, height, width, speed):
    """centers_T2, angles_T, scales_T of another shape, which bounces before its center leaves the frame."""
    unit = min(height, width) / 64
    # Times reach past the clip at both ends, because smoothing takes half a bounce off each.
    times_T = np.arange(num_frames + BOUNCE_FRAMES - 1) - (num_frames + BOUNCE_FRAMES - 2) / 2
    size_2 = np.array([width, height])
    straight_T2 = rng.uniform(size=2) * 2 * size_2 + times_T[:, None] * _velocity(rng, speed, unit)
    folded_T2 = size_2 - np.abs(straight_T2 % (2 * size_2) - size_2)
    window = np.hanning(BOUNCE_FRAMES + 2)[1:-1]
    centers_T2 = np.stack([np.convolve(x_T, window / window.sum(), mode='valid') for x_T in folded_T2.T], axis=-1)
    times_T = np.arange(num_frames) - (num_frames - 1) / 2
    angles_T = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.07, 0.07) * times_T
    growth = rng.uniform(-1, 1) * min(0.008, 0.5 / num_frames)
    return centers_T2, angles_T, np.exp(growth * times_T)


def _velocity(rng, speed, unit):
    """A random heading at a speed from a range; x, y in pixels per frame."""
    pace, heading = unit * rng.uniform(*speed), rng.uniform(0, 2 * np.pi)
    return pace * np.array([np.cos(heading), np.sin(heading)])


def _camera_path(step_4, num_frames, height, width):
    """cameras_T23: the step applied t times, for every t."""
    dx, dy, turn, log_zoom = step_4
    middle_2, shift_2 = np.array([width / 2, height / 2]), np.array([dx, dy])
    step_33 = np.eye(3)
    step_33[:2, :2] = np.exp(log_zoom) * rotation(turn)
    step_33[:2, 2] = middle_2 + shift_2 - step_33[:2, :2] @ middle_2
    return np.stack([np.linalg.matrix_power(step_33, t)[:2] for t in range(num_frames)])


def _background_points(rng, num_points, cameras_T23, height, width):
    """Points that are inside the frame at some random time, given where they are in frame 0."""
    points = []
    for t in rng.integers(len(cameras_T23), size=num_points):
        seen_2 = rng.uniform(size=2) * (width, height)
        points.append(np.linalg.solve(cameras_T23[t, :, :2], seen_2 - cameras_T23[t, :, 2]))
    return np.array(points).reshape(num_points, 2)

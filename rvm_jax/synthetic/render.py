"""Short synthetic videos whose truth is known in every frame, and the paper's noise square.

`scenes.random_scene` draws a scene; `render` turns it into frames, `truth` into tracks, boxes, masks, depth, motion
class and camera motion. Coordinates are those of `scenes.py`.
"""

import dataclasses

import cv2
import numpy as np

from rvm_jax.synthetic import sprites
from rvm_jax.synthetic.scenes import TILE_SIDES, Scene, rotation

BACKGROUND_DEPTH = 3.0


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is where in every frame. Object k of 1 ... K is in front of object k - 1; 0 is the background."""

    tracks_PT2: np.ndarray  # float32 x, y in pixels; given also where the point is hidden
    visible_PT: np.ndarray  # bool: inside the frame and not occluded
    track_objects_P: np.ndarray  # int8: the object that a track is on
    boxes_KT4: np.ndarray  # float32 x0, y0, x1, y1 around the whole shape, cut at the frame; all 0 when outside it
    masks_THW: np.ndarray  # int8: the object seen at each pixel
    depths_K: np.ndarray  # float32, falling: distance of each object; its radius on screen is about size / depth
    motion_class: np.ndarray  # int: index into CLASSES, the motion of object K, the nearest and largest
    camera_T23: np.ndarray  # float32: takes a background point of frame 0 to frame t
    camera_step_4: np.ndarray  # float32 dx, dy (pixels), turn (radians), log zoom: from a frame to the next

    @property
    def depth_THW(self) -> np.ndarray:
        """Distance seen at each pixel, float32, in the unit of depths_K; the background is at BACKGROUND_DEPTH."""
        return np.concatenate([[BACKGROUND_DEPTH], self.depths_K]).astype(np.float32)[self.masks_THW]


def render(scene: Scene) -> np.ndarray:
    """Paint a scene: frames_THWC, uint8 RGB."""
    frames = []
    for t in range(len(scene.cameras_T23)):
        frame_HWC = _background(scene, t)
        for shape in scene.shapes:
            sprite_HWC, coverage_HW = _sprite_on_screen(shape, t, scene.height, scene.width)
            frame_HWC += coverage_HW[..., None] * (sprite_HWC[..., :3] - frame_HWC)
        frames.append(np.clip(frame_HWC * 255 + 0.5, 0, 255).astype(np.uint8))
    return np.stack(frames)


def truth(scene: Scene) -> Truth:
    """What `render` shows, as a Truth. A pixel belongs to a shape that covers at least half of it."""
    T, K = len(scene.cameras_T23), len(scene.shapes)
    masks_THW = np.zeros((T, scene.height, scene.width), np.int8)
    boxes_KT4 = np.zeros((K, T, 4), np.float32)
    for t in range(T):
        for k, shape in enumerate(scene.shapes):
            covered_HW = _sprite_on_screen(shape, t, scene.height, scene.width)[1] >= 0.5
            masks_THW[t][covered_HW] = k + 1
            x, y, width, height = cv2.boundingRect(covered_HW.astype(np.uint8))
            boxes_KT4[k, t] = x, y, x + width, y + height
    tracks = [_move(scene.background_points_N2, scene.cameras_T23)]
    tracks += [_move(shape.points_N2, _pose(shape, slice(None))) for shape in scene.shapes]
    tracks_PT2 = np.concatenate(tracks).astype(np.float32)
    track_objects_P = np.repeat(np.arange(K + 1), [len(tracks_NT2) for tracks_NT2 in tracks]).astype(np.int8)
    return Truth(
        tracks_PT2=tracks_PT2,
        visible_PT=_visible(tracks_PT2, track_objects_P, masks_THW),
        track_objects_P=track_objects_P,
        boxes_KT4=boxes_KT4,
        masks_THW=masks_THW,
        depths_K=np.array([shape.depth for shape in scene.shapes], np.float32),
        motion_class=np.array(scene.motion_class),
        camera_T23=scene.cameras_T23.astype(np.float32),
        camera_step_4=scene.camera_step_4.astype(np.float32),
    )


def noise_square(
    rng: np.random.Generator, num_frames: int = 64, size: int = 512, *, anywhere: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A square of noise that slides over other noise, as in the paper's white-noise figure.

    Each frame alone is noise; only motion reveals the square. size is the side of the frame in pixels: the square is
    half as wide. It slides to the right at mid height, its left edge from 0 towards size / 2, which with the other
    defaults is the paper's. With anywhere it starts at a place and goes in a direction drawn at random, size / 128 to
    size / 32 pixels a frame, and what leaves the frame comes in on the other side: no pixel is in it more often.
    Returns frames_THWC uint8, and masks_THW int8 with 1 on the square.
    """
    side = size // 2
    background_HWC = (rng.random((size, size, 3)) * 255).astype(np.uint8)
    square_HWC = np.zeros_like(background_HWC)
    square_HWC[:side, :side] = (rng.random((side, side, 3)) * 255).astype(np.uint8)
    mask_HW = np.zeros((size, size), np.int8)
    mask_HW[:side, :side] = 1
    if anywhere:
        start_2, heading = rng.integers(size, size=2), rng.uniform(0, 2 * np.pi)
        step_2 = size * rng.uniform(1 / 128, 1 / 32) * np.array([np.sin(heading), np.cos(heading)])
    else:
        start_2, step_2 = np.array([(size - side) // 2, 0]), np.array([0, (size - side) / num_frames])
    frames, masks = [], []
    for t in range(num_frames):
        place_2 = start_2 + np.floor(t * step_2 + 1e-6).astype(int)  # rows, columns
        masks.append(np.roll(mask_HW, place_2, axis=(0, 1)))
        frames.append(np.where(masks[-1][..., None] > 0, np.roll(square_HWC, place_2, axis=(0, 1)), background_HWC))
    return np.stack(frames), np.stack(masks)


def _background(scene, t):
    """The texture as the camera sees it in frame t: (H, W, C) float32."""
    texels = sprites.SIZE / (TILE_SIDES * min(scene.height, scene.width))
    placement = (scene.height, scene.width, scene.cameras_T23[t], texels, 0.0)
    return _warp(scene.background_HWC, *placement, borderMode=cv2.BORDER_WRAP)


def _sprite_on_screen(shape, t, height, width):
    """The sprite in frame t, and coverage_HW: the fraction of each pixel that it covers."""
    texels = sprites.SIZE / (2 * sprites.EXTENT)
    placement = (height, width, _pose(shape, t), texels, sprites.EXTENT)
    sprite_HWC = _warp(shape.sprite_HWC, *placement, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, -1))
    # One pixel along, the distance to the outline changes by one: half a pixel inside is covered, half outside is not.
    return sprite_HWC, np.clip(sprite_HWC[..., 3] * shape.radii_T[t] + 0.5, 0, 1)


def _warp(texture_HWC, height, width, pose_23, texels, origin, **border):
    """Sample a texture at every pixel: pose_23 takes its x, y to pixels, (x + origin) * texels to texels."""
    linear = texels * np.linalg.inv(pose_23[:, :2])
    shift = texels * origin - linear @ pose_23[:, 2]
    # OpenCV counts from the center of the first pixel and texel, we from their corner.
    matrix = np.column_stack([linear, shift + linear @ (0.5, 0.5) - 0.5])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture_HWC, matrix, (width, height), flags=flags, **border)


def _pose(shape, t):
    """Take x, y in units of the radius to pixels in frame t: (2, 3), or (T, 2, 3) for a slice of frames."""
    linear = shape.radii_T[t][..., None, None] * rotation(shape.angles_T[t])
    return np.concatenate([linear, shape.centers_T2[t][..., None]], axis=-1)


def _move(points_N2, maps_T23):
    """Points in every frame: (N, T, 2)."""
    return np.einsum('tij,nj->nti', maps_T23[:, :, :2], points_N2) + maps_T23[:, :, 2]


def _visible(tracks_PT2, track_objects_P, masks_THW):
    """visible_PT: the pixel under the point is in the frame and shows the object that the point is on."""
    T, H, W = masks_THW.shape
    x_PT, y_PT = np.floor(tracks_PT2).astype(int).transpose(2, 0, 1)
    inside_PT = (x_PT >= 0) & (x_PT < W) & (y_PT >= 0) & (y_PT < H)
    seen_PT = masks_THW[np.arange(T), np.clip(y_PT, 0, H - 1), np.clip(x_PT, 0, W - 1)]
    return inside_PT & (seen_PT == track_objects_P[:, None])

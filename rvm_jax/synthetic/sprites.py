"""How one synthetic shape looks: an outline kept as a distance field, filled with a smooth texture.

A distance field survives any turn and scale: sampled once a pixel it still gives an anti-aliased edge, so nothing has
to be drawn larger and shrunk. Textures are low-frequency color fields; fine noise costs training steps and teaches
little at 48 x 48 pixels.
"""

import colorsys

import cv2
import numpy as np

SIZE = 160  # texels along each side of a sprite and of a background tile
EXTENT = 1.25  # a sprite spans [-EXTENT, EXTENT] in units of the shape's radius


def random_sprite(rng: np.random.Generator, hue: float, cycles: float) -> np.ndarray:
    """Draw a shape and its texture.

    hue is in [0, 1); cycles is how often the texture goes up and down across the sprite.
    Returns sprite_HWC, float32 (SIZE, SIZE, 4): red, green, blue in [0, 1], then the signed distance to the outline in
    units of the shape's radius, positive inside.
    """
    kind = list(OUTLINES)[rng.integers(len(OUTLINES))]
    distance_HW = distance_field(_unit_radius(OUTLINES[kind](rng)))
    color_HWC = random_texture(rng, hue, cycles, saturation=(0.5, 0.95), brightness=(0.4, 0.8, 1.0))
    # A darker rim, part of the texture, parts neighbors of similar color.
    color_HWC = color_HWC * (0.55 + 0.45 * np.clip(distance_HW / 0.16, 0, 1))[..., None]
    return np.dstack([color_HWC, distance_HW]).astype(np.float32)


def random_texture(
    rng: np.random.Generator,
    hue: float,
    cycles: float,
    saturation: tuple[float, float],
    brightness: tuple[float, float, float],
) -> np.ndarray:
    """Mix three neighboring hues, one for each brightness, into a smooth periodic color_HWC, RGB in [0, 1].

    hue is in [0, 1), cycles as in `random_sprite`, saturation a range in [0, 1].
    """
    hues = hue + rng.choice((-1, 1)) * np.array([0.12, 0.0, -0.12])
    saturations = rng.uniform(*saturation, size=3)
    colors = [colorsys.hsv_to_rgb(h % 1, s, v) for h, s, v in zip(hues, saturations, brightness, strict=True)]
    first_HW, second_HW = (1 / (1 + np.exp(-1.4 * smooth_field(rng, cycles))) for _ in range(2))
    shares_HW3 = np.stack([1 - first_HW, first_HW * (1 - second_HW), first_HW * second_HW], axis=-1)
    return shares_HW3 @ np.array(colors, np.float32)


def smooth_field(rng: np.random.Generator, cycles: float) -> np.ndarray:
    """Draw a periodic random field_HW, (SIZE, SIZE), with about `cycles` waves along a side.

    Mean 0 and deviation 1 in its middle, so that no shape is of one color and every turn shows.
    """
    frequency = np.hypot(np.fft.fftfreq(SIZE, 1 / SIZE)[:, None], np.fft.rfftfreq(SIZE, 1 / SIZE)[None])
    band = np.exp(-0.5 * ((frequency / cycles - 0.8) / 0.35) ** 2) * (frequency > 0)
    noise_HW = rng.standard_normal((SIZE, SIZE), np.float32)
    field_HW = np.fft.irfft2(np.fft.rfft2(noise_HW) * band.astype(np.float32), s=(SIZE, SIZE))
    middle = slice(SIZE // 4, -SIZE // 4)
    return (field_HW - field_HW[middle, middle].mean()) / field_HW[middle, middle].std()


def distance_field(outline_N2: np.ndarray) -> np.ndarray:
    """Signed distance_HW to a closed outline given as x, y in units of the radius; positive inside, same units."""
    texels_per_unit = SIZE / (2 * EXTENT)
    inside_HW = np.zeros((SIZE, SIZE), np.uint8)
    corners = (outline_N2 + EXTENT) * texels_per_unit - 0.5
    cv2.fillPoly(inside_HW, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    # The transform measures to the center of the nearest texel on the other side; the outline runs half a texel nearer.
    inner = cv2.distanceTransform(inside_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
    outer = cv2.distanceTransform(1 - inside_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5
    return np.where(inside_HW > 0, inner, -outer) / texels_per_unit


def random_points(rng: np.random.Generator, sprite_HWC: np.ndarray, num_points: int) -> np.ndarray:
    """Draw points_N2 well inside a shape, x, y in units of its radius."""
    rows, columns = np.nonzero(sprite_HWC[..., 3] > 0.12)
    chosen = rng.choice(len(rows), size=num_points)
    return (np.stack([columns, rows], axis=-1)[chosen] + 0.5) * (2 * EXTENT / SIZE) - EXTENT


def _polar(radius_N):
    angle_N = np.linspace(0, 2 * np.pi, len(radius_N), endpoint=False)
    return np.stack([radius_N * np.cos(angle_N), radius_N * np.sin(angle_N)], axis=-1)


def _ellipse(rng):
    return _polar(np.ones(96)) * (1, rng.uniform(0.5, 0.7))


def _star(rng):
    return _polar(np.tile([1.0, rng.uniform(0.45, 0.6)], rng.integers(4, 7)))


def _flower(rng):
    petals = rng.integers(3, 7)
    return _polar(1 + rng.uniform(0.15, 0.3) * np.cos(petals * np.linspace(0, 2 * np.pi, 160, endpoint=False)))


def _blob(rng):
    angle_N = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    waves = [rng.uniform(0.08, 0.2) * np.cos(n * angle_N + rng.uniform(0, 2 * np.pi)) for n in (1, 2, 3)]
    return _polar(1 + sum(waves))


def _heart(rng):
    angle_N = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    height = 13 * np.cos(angle_N) - 5 * np.cos(2 * angle_N) - 2 * np.cos(3 * angle_N) - np.cos(4 * angle_N)
    return np.stack([16 * np.sin(angle_N) ** 3, -height], axis=-1)


OUTLINES = {  # rng -> corners (N, 2), any size
    'disc': lambda rng: _polar(np.ones(96)),
    'ellipse': _ellipse,
    'polygon': lambda rng: _polar(np.ones(rng.integers(3, 7))),
    'star': _star,
    'flower': _flower,
    'blob': _blob,
    'heart': _heart,
}


def _unit_radius(outline_N2):
    """Center an outline on the middle of its box and scale it to touch the unit circle."""
    centered = outline_N2 - (outline_N2.min(axis=0) + outline_N2.max(axis=0)) / 2
    return centered / np.hypot(centered[:, 0], centered[:, 1]).max()

"""The masked-reconstruction panel: source frames, the visible patches of the target, and its reconstruction."""

from collections.abc import Sequence

import numpy as np

from rvm_jax.visualization import canvas

GREY = 0.5  # the value of a hidden pixel
CLIP_GAP = 22  # pixels between clips that share a picture


def mask_from_visible(visible: np.ndarray, grid: tuple[int, int], patch_size: int) -> np.ndarray:
    """Which pixels are hidden: True = hidden, (..., H, W), from the indices of visible patches, (..., V).

    grid is (h, w) in patches, row-major.
    """
    hidden = np.ones((*visible.shape[:-1], grid[0] * grid[1]), bool)
    np.put_along_axis(hidden, np.asarray(visible), False, axis=-1)
    hidden = hidden.reshape(*visible.shape[:-1], *grid)
    return hidden.repeat(patch_size, axis=-2).repeat(patch_size, axis=-1)


def stages(target_FHWC: np.ndarray, pixels_FHWC: np.ndarray, mask_FHW: np.ndarray) -> dict[str, np.ndarray]:
    """The four rows of a target, uint8 FHWC: masked, reconstruction, combined, truth.

    target is uint8, pixels are the output of the model (float, about [0, 1], clipped here). Combined has the visible
    pixels of the target and the hidden ones of the reconstruction.
    """
    hidden = mask_FHW[..., None]
    made = (np.clip(pixels_FHWC, 0, 1) * 255).round().astype(np.uint8)
    masked = np.where(hidden, np.uint8(GREY * 255 + 0.5), target_FHWC)
    combined = np.where(hidden, made, target_FHWC)
    return {'masked target': masked, 'reconstruction': made, 'combined': combined, 'truth': target_FHWC}


def panel(
    source_BTHWC: np.ndarray,
    target_BFHWC: np.ndarray,
    pixels_BFHWC: np.ndarray,
    visible_BFV: np.ndarray,
    patch_size: int,
    deltas_BF: Sequence | np.ndarray | None = None,
    widest: int = 1500,
) -> np.ndarray:
    """One picture of one or several clips: source frames, then the four stages of the targets as rows. uint8 HWC.

    source and target are uint8, pixels float. Clips are side by side while the picture is narrower than `widest`
    pixels, then on a new line. deltas (frames) are written above their targets.
    """
    height, width = target_BFHWC.shape[2:4]
    mask_BFHW = mask_from_visible(visible_BFV, (height // patch_size, width // patch_size), patch_size)
    factor = canvas.enlargement(height, width, smallest=96)
    clips = []
    for index, source_THWC in enumerate(source_BTHWC):
        rows: list[canvas.Row] = [('source', source_THWC, [f't = {time}' for time in range(len(source_THWC))])]
        for label, frames in stages(target_BFHWC[index], pixels_BFHWC[index], mask_BFHW[index]).items():
            deltas = deltas_BF[index] if deltas_BF is not None and label == 'masked target' else ()
            rows.append((label, frames, [f'Δ = {delta}' for delta in deltas]))
        clips.append([(label, canvas.enlarge(frames, factor), captions) for label, frames, captions in rows])
    return canvas.framed(_clips_in_lines(clips, widest))


def _clips_in_lines(clips, widest):
    """Clips (each a list of rows for `canvas.block`) side by side, with one column of labels for each line."""
    labels, blocks = canvas.row_labels(clips[0]), [canvas.block(rows) for rows in clips]
    room = widest - labels.shape[1]
    a_line = max(1, (room + CLIP_GAP) // (blocks[0].shape[1] + CLIP_GAP))
    lines = [
        canvas.beside([labels, canvas.beside(blocks[start : start + a_line], CLIP_GAP)], canvas.MARGIN)
        for start in range(0, len(blocks), a_line)
    ]
    return canvas.stack(lines, CLIP_GAP)

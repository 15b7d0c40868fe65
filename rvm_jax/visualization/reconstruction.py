"""The masked-reconstruction panel: what the model watched, what it was shown, what it made of it."""

import numpy as np

from rvm_jax.visualization import canvas

GREY = 0.5  # what stands for a hidden pixel
CLIP_GAP = 22  # pixels between clips that share a picture


def mask_from_visible(visible, grid, patch_size):
    """Which pixels are hidden: True = hidden, (..., H, W), from the indices of the patches kept, (..., V).

    grid is (h, w) in patches, row-major.
    """
    hidden = np.ones((*visible.shape[:-1], grid[0] * grid[1]), bool)
    np.put_along_axis(hidden, np.asarray(visible), False, axis=-1)
    hidden = hidden.reshape(*visible.shape[:-1], *grid)
    return hidden.repeat(patch_size, axis=-2).repeat(patch_size, axis=-1)


def stages(target_FHWC, pixels_FHWC, mask_FHW):
    """The target's four rows, uint8 FHWC: masked, reconstruction, combined, truth.

    target is uint8, pixels are what the model gave (float, nominally in [0, 1], clipped here). Combined takes the
    visible pixels from the target and the hidden ones from the reconstruction.
    """
    hidden = mask_FHW[..., None]
    made = (np.clip(pixels_FHWC, 0, 1) * 255).round().astype(np.uint8)
    masked = np.where(hidden, np.uint8(GREY * 255 + 0.5), target_FHWC)
    combined = np.where(hidden, made, target_FHWC)
    return {'masked target': masked, 'reconstruction': made, 'combined': combined, 'truth': target_FHWC}


def panel(source_BTHWC, target_BFHWC, pixels_BFHWC, visible_BFV, patch_size, deltas_BF=None, widest=1500):
    """One picture of one or several clips: source frames, then each target's four stages as rows. uint8 HWC.

    source and target are uint8, pixels float; clips stand side by side as long as the picture stays under
    `widest` pixels, then on a new line. deltas (frames) are written above their targets.
    """
    height, width = target_BFHWC.shape[2:4]
    mask_BFHW = mask_from_visible(visible_BFV, (height // patch_size, width // patch_size), patch_size)
    factor = canvas.enlargement(height, width, smallest=96)
    clips = []
    for index, source_THWC in enumerate(source_BTHWC):
        rows = [('source', source_THWC, [f't = {time}' for time in range(len(source_THWC))])]
        for label, frames in stages(target_BFHWC[index], pixels_BFHWC[index], mask_BFHW[index]).items():
            with_deltas = deltas_BF is not None and label == 'masked target'
            rows.append((label, frames, [f'Δ = {delta}' for delta in deltas_BF[index]] if with_deltas else ()))
        clips.append([(label, canvas.enlarge(frames, factor), captions) for label, frames, captions in rows])
    return canvas.framed(_clips_in_lines(clips, widest))


def _clips_in_lines(clips, widest):
    """Clips (each a list of rows as `canvas.block` takes them) side by side, with one column of labels a line."""
    labels, blocks = canvas.row_labels(clips[0]), [canvas.block(rows) for rows in clips]
    room = widest - labels.shape[1]
    a_line = max(1, (room + CLIP_GAP) // (blocks[0].shape[1] + CLIP_GAP))
    lines = [
        canvas.beside([labels, canvas.beside(blocks[start : start + a_line], CLIP_GAP)], canvas.MARGIN)
        for start in range(0, len(blocks), a_line)
    ]
    return canvas.stack(lines, CLIP_GAP)

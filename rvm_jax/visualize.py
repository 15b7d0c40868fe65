"""Make pictures of what a model sees in a video: PCA, K-means, masked reconstruction.

Example:
    rvm visualize --model runs/demo/export --video cat.mp4 --output pictures

pca and kmeans (.png, .mp4) color each patch by its features, frame after frame through the core. Features of small
models say above all where a patch is. If that is most of their variance, it is taken out, and the command says so.
reconstruction (.png, .mp4) shows the model as many first frames as it was trained to watch (4) and has it rebuild later
ones, as far away as in its training, from the few patches that stay visible. Videos play at 16 frames a second.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rvm_jax.errors import DataError, UserError
from rvm_jax.terminal import counted
from rvm_jax.values import frame_rate

if TYPE_CHECKING:
    from rvm_jax.models.rvm import RVM

Item = TypeVar('Item')
NUM_DELTAS = 64  # distances that the decoder can tell apart
TARGETS_AT_ONCE = 4
PANEL_COLUMNS = 8
POSITIONS = ('auto', 'keep', 'remove')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm visualize`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument('--video', required=True, help='video file, or folder of numbered pictures')
    parser.add_argument('--output', required=True, help='folder for the pictures')
    parser.add_argument('--frames', type=int, default=64, help='frames to use, from the first on (default: 64)')
    parser.add_argument('--fps', help='frames per second to take, or all (default: as in the training)')
    parser.add_argument('--position', choices=POSITIONS, default='auto', help='what features owe to the place of a '
                        'patch alone: keep it, remove it, or remove it if it is most of their variance (auto, the '
                        'default)')  # fmt: skip
    parser.add_argument(
        '--size', type=int, help='short side in pixels, aspect kept (default: the size the model was trained at)'
    )


def run(args: argparse.Namespace) -> None:
    """Write the pictures and print where they are."""
    fps = frame_rate(args.fps)
    if not os.path.exists(args.video):
        raise UserError(args.video, 'does not exist', 'check --video')
    from rvm_jax import inference, pretrained

    model = pretrained.load(args.model, step=args.step)
    num_source = model.architecture.num_source
    if args.frames <= num_source:
        reason = f'at least {num_source + 1} frames are needed ({num_source} source, 1 target)'
        raise UserError(f'--frames {args.frames}', reason, 'raise it')
    video = inference.open_stream(model, args.video, short_side=args.size, fps=fps)
    frames = list(islice(video.frames, args.frames))
    if len(frames) <= num_source:
        raise DataError(args.video, f'has {counted(len(frames), "frame")}', f'use a video of at least {num_source + 1}')
    frames_THWC = np.stack(frames)
    os.makedirs(args.output, exist_ok=True)
    write_feature_pictures(model, frames_THWC, args.output, args.position)
    if model.decoder is None:
        print(f'{args.model}: these weights have no decoder, so there is no reconstruction', file=sys.stderr)
    else:
        write_reconstructions(model, frames_THWC, args.output)
    rate = '' if math.isnan(video.fps) else f', {video.fps:.4g} per second,'
    print(f'pictures of {counted(len(frames_THWC), "frame")}{rate} are in {args.output}')


def write_feature_pictures(model: 'RVM', frames_THWC: np.ndarray, folder: str, position: str = 'auto') -> None:
    """Write pca and kmeans, .png (moments spread over the video) and .mp4 (the video beside its features).

    position: 'keep' or 'remove' what features owe to their place alone, or 'auto', see `inference.position_of`.
    """
    from rvm_jax import inference
    from rvm_jax.visualization import canvas, feature_maps, movies
    from rvm_jax.visualization.canvas import blend

    size = frames_THWC.shape[1:3]
    features_ThwD = inference.video_grid(model, progress(list(frames_THWC), 'features'), size)
    if position != 'keep':
        position_hwD = inference.position_of(model, frames_THWC)
        share = inference.share_of_position(features_ThwD, position_hwD)
        if position == 'remove' or share > 0.5:
            features_ThwD -= position_hwD
            print(f'the place of a patch explains {share:.0%} of the variance of its features: it is taken out')
    pca_THWC = feature_maps.pca_colors(features_ThwD, size)
    kmeans_THWC = feature_maps.label_colors(feature_maps.kmeans_labels(features_ThwD), size)
    videos = [('video', frames_THWC), ('PCA', pca_THWC)]
    canvas.write_png(os.path.join(folder, 'pca.png'), movies.contact_sheet(videos))
    movies.write_video(os.path.join(folder, 'pca.mp4'), movies.side_by_side(videos))
    videos = [('video', frames_THWC), ('K-means', kmeans_THWC), ('overlay', blend(frames_THWC, kmeans_THWC))]
    canvas.write_png(os.path.join(folder, 'kmeans.png'), movies.contact_sheet(videos))
    movies.write_video(os.path.join(folder, 'kmeans.mp4'), movies.side_by_side(videos))


def write_reconstructions(model: 'RVM', frames_THWC: np.ndarray, folder: str) -> None:
    """Write reconstruction.png, up to eight targets in columns, and .mp4, every target in turn."""
    from rvm_jax import inference
    from rvm_jax.visualization import canvas, movies, reconstruction

    side = min(frames_THWC.shape[1:3])  # the model was trained on squares, and so are its decoder's positions
    frames_THWC = inference.cut(frames_THWC, side, side)
    num_source = model.architecture.num_source
    farthest = num_source - 1 + (model.architecture.max_gap or NUM_DELTAS - num_source)
    source_THWC, target_FHWC = frames_THWC[:num_source], frames_THWC[num_source : farthest + 1]
    counted_from = 0 if model.architecture.delta_from == 'first' else num_source - 1
    deltas_F = np.arange(num_source, num_source + len(target_FHWC)) - counted_from
    pixels_FHWC, visible_FV = rebuild(model, source_THWC, target_FHWC, deltas_F)
    shown = slice(None, None, max(1, len(deltas_F) // PANEL_COLUMNS))
    clip = (target_FHWC, pixels_FHWC, visible_FV, deltas_F)
    target_BFHWC, pixels_BFHWC, visible_BFV, deltas_BF = (array[shown][:PANEL_COLUMNS][None] for array in clip)
    panel = reconstruction.panel(
        source_THWC[None], target_BFHWC, pixels_BFHWC, visible_BFV, model.patch_size, deltas_BF
    )
    canvas.write_png(os.path.join(folder, 'reconstruction.png'), panel)
    grid = (side // model.patch_size, side // model.patch_size)
    mask_FHW = reconstruction.mask_from_visible(visible_FV, grid, model.patch_size)
    stages = reconstruction.stages(target_FHWC, pixels_FHWC, mask_FHW)
    movies.write_video(os.path.join(folder, 'reconstruction.mp4'), movies.side_by_side(list(stages.items())))


def rebuild(
    model: 'RVM', source_THWC: np.ndarray, target_FHWC: np.ndarray, deltas_F: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruct any number of targets from one set of sources, a few at a time; masks are the same every time.

    Returns pixels_FHWC float32 and visible_FV.
    """
    import jax

    pieces = []
    for start in progress(range(0, len(deltas_F), TARGETS_AT_ONCE), 'reconstruction'):
        part = slice(start, start + TARGETS_AT_ONCE)
        key = jax.random.fold_in(jax.random.key(0), start)
        out = model.reconstruct(source_THWC[None], target_FHWC[None, part], deltas_F[None, part], key=key)
        pieces.append((np.asarray(out.pixels[0]), np.asarray(out.visible[0])))
    pixels, visible = zip(*pieces, strict=True)
    return np.concatenate(pixels), np.concatenate(visible)


def progress(items: Sequence[Item], description: str) -> Iterator[Item]:
    """The items, one by one, with a progress bar."""
    from rvm_jax.terminal import progress_bars

    with progress_bars() as bars:
        yield from bars.track(items, description=description)


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['visualize', *sys.argv[1:]])

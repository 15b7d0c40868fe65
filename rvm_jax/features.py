"""Write the features of videos, one .npz each, in constant memory.

Example:
    rvm features --model runs/demo/export --video cat.mp4 dog.mp4 --output features

features/cat.npz then holds `features` (T, M, D) float32: T frames, M tokens (CLS first, then the patches row by row) of
D numbers each; `grid`, the rows and columns of patches; `fps`, frames per second (nan if the file does not state it).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rvm_jax.errors import DataError, UserError, printable

if TYPE_CHECKING:
    from rich.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm features`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument('--video', required=True, nargs='+', help='video files')
    parser.add_argument('--output', required=True, help='folder for the .npz files')
    parser.add_argument('--fps', type=float, help='frames per second to take (default: every frame)')
    parser.add_argument(
        '--size', type=int, help='shorter side in pixels, with the aspect kept (default: the size of the training)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace existing .npz files')


def run(args: argparse.Namespace) -> None:
    """Write the features of every video that can be used; DataError afterwards if there were others."""
    outputs = planned_outputs(args.video, args.output, args.overwrite)
    if args.fps is not None and not args.fps > 0:
        raise UserError(f'--fps {args.fps}', 'must be above 0', 'leave it out to take every frame')
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from rvm_jax import pretrained

    model = pretrained.load(args.model, step=args.step)
    size = model.image_size if args.size is None else args.size
    os.makedirs(args.output, exist_ok=True)
    console, unusable = Console(soft_wrap=True), []
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        for path, output in outputs.items():
            try:
                num_frames = extract_video(model, path, output, size, args.fps, progress)
            except DataError as error:
                unusable.append(error)
            else:
                line = printable(f'{output}: {num_frames} frames')
                progress.console.print(line, highlight=False, markup=False)
    if unusable:
        reasons = ', '.join(f'{error.value} {error.reason}' for error in unusable)
        raise DataError(f'{len(unusable)} of {len(outputs)} videos', f'cannot be used ({reasons})', unusable[0].fix)


def planned_outputs(videos: Sequence[str], folder: str, overwrite: bool) -> dict[str, str]:
    """The .npz of each video, checked before anything is loaded: {video path: .npz path}.

    Raises UserError if a video does not exist, if two videos would share an .npz, or if an .npz already exists.
    """
    owners: dict[str, str] = {}
    for path in videos:
        if not os.path.isfile(path):
            raise UserError(path, 'there is no such file', 'check --video')
        output = os.path.join(folder, os.path.splitext(os.path.basename(path))[0] + '.npz')
        if output in owners:
            raise UserError(path, f'would be written to {output}, like {owners[output]}', 'use two --output folders')
        if os.path.exists(output) and not overwrite:
            raise UserError(output, 'already exists', 'pass --overwrite, or another --output')
        owners[output] = path
    return {path: output for output, path in owners.items()}


def extract_video(model: Any, path: str, output: str, short_side: int, fps: float | None, progress: 'Progress') -> int:
    """Write the features of one video. Returns the number of frames."""
    from rich import markup

    from rvm_jax import inference
    from rvm_jax.data.video import decode

    info = decode.probe(path)
    height, width = inference.working_size(info.height, info.width, short_side=short_side, patch_size=model.patch_size)
    total = info.num_frames if fps is None else info.duration_s and math.ceil(info.duration_s * fps)
    task = progress.add_task(markup.escape(printable(os.path.basename(path))), total=total)

    def counted(chunks):
        for features_TMD in chunks:
            progress.advance(task, len(features_TMD))
            yield features_TMD

    frames = inference.video_frames(path, short_side=short_side, patch_size=model.patch_size, fps=fps)
    try:
        return inference.write_features(
            output,
            counted(inference.encode_stream(model, frames)),
            grid=(height // model.patch_size, width // model.patch_size),
            fps=fps or info.fps or math.nan,
        )
    finally:
        progress.remove_task(task)


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['features', *sys.argv[1:]])

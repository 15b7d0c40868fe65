"""Write the features of videos, one .npz each, in constant memory.

Example:
    rvm features --model runs/demo/export --video cat.mp4 dog.mp4 --output features

features/cat.npz then holds `features` (T, M, D) float32: T frames, M tokens (CLS first, then the patches row by row),
D numbers each; `grid`, the patches' rows and columns; `fps`, frames a second (nan where the file does not say).
"""

import math
import os
import sys

from rvm_jax.errors import DataError, UserError, printable


def add_arguments(parser):
    """Flags of `rvm features`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument('--video', required=True, nargs='+', help='video files')
    parser.add_argument('--output', required=True, help='folder for the .npz files')
    parser.add_argument('--fps', type=float, help='frames a second to take (default: every frame)')
    parser.add_argument(
        '--size', type=int, help='short side in pixels, aspect kept (default: the size the model was trained at)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace .npz files that are already there')


def run(args):
    """Write the features of every video that can be used; then raise DataError if there were others."""
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
        raise DataError(reasons, f'{len(unusable)} of {len(outputs)} videos cannot be used', unusable[0].fix)


def planned_outputs(videos, folder, overwrite):
    """Where each video's features go, checked before anything is loaded: {video path: .npz path}.

    Raises UserError for a video that is not there, two that would share an .npz, or an .npz that is there already.
    """
    owners = {}
    for path in videos:
        if not os.path.isfile(path):
            raise UserError(path, 'there is no such file', 'check --video')
        output = os.path.join(folder, os.path.splitext(os.path.basename(path))[0] + '.npz')
        if output in owners:
            raise UserError(path, f'would be written to {output}, like {owners[output]}', 'use two --output folders')
        if os.path.exists(output) and not overwrite:
            raise UserError(output, 'is already there', 'pass --overwrite, or another --output')
        owners[output] = path
    return {path: output for output, path in owners.items()}


def extract_video(model, path, output, short_side, fps, progress):
    """Write one video's features. Returns the number of frames."""
    from rich import markup

    from rvm_jax import inference
    from rvm_jax.data.video import decode

    info = decode.probe(path)
    height, width = inference.working_size(info.height, info.width, short_side, model.patch_size)
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

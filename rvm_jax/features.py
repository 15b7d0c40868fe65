"""Write the features of videos, one .npz each, in constant memory.

Examples:
    rvm features --model runs/demo/export --video cat.mp4 dog.mp4 --output features
    rvm features --model runs/demo/export --video videos --output features

features/cat.npz then holds `features` (T, M, D) float32: T frames, M tokens (CLS first, then the patches row by row) of
D numbers each; `grid`, the rows and columns of patches; `fps`, frames per second (nan if the file does not state it);
`made_with`, the model and the settings. The files of a folder keep their subfolders. After a stop, the same command
resumes: what is there already, of the same model, settings and video, is skipped.
"""

import argparse
import glob
import json
import math
import os
import sys
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rvm_jax.errors import DataError, UserError, printable
from rvm_jax.values import frame_rate

if TYPE_CHECKING:
    from rich.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm features`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument(
        '--video',
        required=True,
        nargs='+',
        help='videos (files, or folders of numbered pictures), folders of them, globs, or text files (.txt) with one '
        'path a line',
    )
    parser.add_argument('--output', required=True, help='folder for the .npz files')
    parser.add_argument('--fps', help='frames per second to take, or all (default: as in the training)')
    parser.add_argument(
        '--size', type=int, help='shorter side in pixels, with the aspect kept (default: the size of the training)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace existing .npz files')


def run(args: argparse.Namespace) -> None:
    """Write the features of every video that can be used; DataError afterwards if there were others."""
    outputs = planned_outputs(args.video, args.output)
    fps = frame_rate(args.fps)
    there = {output: made_with(output) for output in outputs.values() if os.path.exists(output) and not args.overwrite}
    from rvm_jax import pretrained
    from rvm_jax.models import param_names
    from rvm_jax.terminal import counted, progress_bars

    model = pretrained.load(args.model, step=args.step)
    size = model.image_size if args.size is None else args.size
    facts = {'model': param_names.fingerprint(model), 'size': size, 'fps': fps or model.architecture.fps}
    wanted = {output: facts | {'video_bytes': size_of(path)} for path, output in outputs.items()}
    for output, found in there.items():
        check_same(output, found, wanted[output])
    if there:
        print(f'done already: {len(there)} of {len(outputs)}')
    unusable = []
    with progress_bars() as progress:
        bar = progress.add_task('videos', total=len(outputs), completed=len(there))
        for path, output in outputs.items():
            if output in there:
                continue
            os.makedirs(os.path.dirname(output), exist_ok=True)
            try:
                num_frames, rate = extract_video(model, path, output, size, fps, wanted[output], progress)
            except DataError as error:
                unusable.append(error)
            else:
                per_second = '' if math.isnan(rate) else f', {rate:.4g} per second'
                line = printable(f'{output}: {counted(num_frames, "frame")}{per_second}')
                progress.console.print(line, highlight=False, markup=False)
            progress.advance(bar)
    if unusable:
        reasons = ', '.join(f'{error.value} {error.reason}' for error in unusable)
        share = f'{len(unusable)} of {counted(len(outputs), "video")}'
        raise DataError(share, f'cannot be used ({reasons})', unusable[0].fix)


def planned_outputs(videos: Sequence[str], folder: str) -> dict[str, str]:
    """The .npz of each video, checked before anything is loaded: {video path: .npz path}.

    Raises UserError for a path that does not exist or has no videos, and if two videos would have the same .npz.
    """
    owners: dict[str, str] = {}
    for path, name in (found for given in videos for found in _listed(given)):
        stem = name if os.path.isdir(path) else os.path.splitext(name)[0]
        output = os.path.join(folder, stem + '.npz')
        if output in owners:
            raise UserError(path, f'would be written to {output}, like {owners[output]}', 'use two --output folders')
        owners[output] = path
    return {path: output for output, path in owners.items()}


def _listed(given):
    """(path, name below --output) of every video that a word after --video stands for."""
    from rvm_jax.data.sources.folder import FolderSource

    if os.path.isfile(given) and not given.lower().endswith('.txt'):  # a video, whatever its extension
        return [(given, os.path.basename(given))]
    if not os.path.exists(given) and not glob.has_magic(given):
        raise UserError(given, 'does not exist', 'check --video')
    source = FolderSource(given)
    return [(source[index].name, _below(name)) for index, name in enumerate(source.names)]


def _below(name):
    """The path of a listed video below --output: its own, unless that leads elsewhere."""
    is_inside = not os.path.isabs(name) and '..' not in name.split(os.sep)
    return name if is_inside else os.path.basename(name)


def size_of(path: str) -> int | None:
    """Bytes of a video; None for one that is listed but missing, which decoding reports."""
    from rvm_jax.data.video.frame_folder import video_bytes

    return video_bytes(path) if os.path.exists(path) else None


def check_same(output: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UserError if an .npz that is there is of another model, setting or video."""
    for name, value in wanted.items():
        if found.get(name) != value:
            reason = f'is there, of another {name.replace("_", " ")}: {found.get(name)}, not {value}'
            raise UserError(output, reason, 'pass --overwrite, or another --output')


def made_with(output: str) -> dict[str, Any]:
    """The model and the settings of an .npz that is there. UserError if it is not one of ours."""
    import numpy as np

    try:
        with np.load(output, allow_pickle=False) as file:
            return json.loads(str(file['made_with']))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(output, 'already exists', 'pass --overwrite, or another --output') from None


def extract_video(
    model: Any,
    path: str,
    output: str,
    short_side: int,
    fps: float | str | None,
    facts: dict[str, Any],
    progress: 'Progress',
) -> tuple[int, float]:
    """Write the features of one video, and what they were made with. Returns the number of frames, and their rate."""
    from rich import markup

    from rvm_jax import inference

    stream = inference.open_stream(model, path, short_side=short_side, fps=fps)
    task = progress.add_task(markup.escape(printable(os.path.basename(path))), total=stream.num_frames)

    def counted(chunks):
        for features_TMD in chunks:
            progress.advance(task, len(features_TMD))
            yield features_TMD

    try:
        chunks = counted(inference.encode_stream(model, stream.frames))
        made_with = json.dumps(facts)
        return inference.write_features(
            output, chunks, grid=stream.grid, fps=stream.fps, made_with=made_with
        ), stream.fps
    finally:
        progress.remove_task(task)


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['features', *sys.argv[1:]])

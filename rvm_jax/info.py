"""Say what a recipe, workdir, export folder, RVM .npz, image encoder, folder of shards or of videos, or a video is.

Examples:
    rvm info configs/rvm_s.py
    rvm info configs/rvm_s.py --config.data.num_source=1
    rvm info runs/s
    rvm info dinov2-base         # a Hugging Face folder
    rvm info cat.mp4             # or a GIF, or a folder of numbered pictures
    rvm info videos              # a folder, a glob or a list of videos: how many, how long, which sizes and rates
    rvm info shards              # reads every shard and compares checksums; draws shards/contact_sheet.png
    rvm info shards --quick      # sizes and numbers of records only
"""

import argparse
import collections
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from rvm_jax.errors import DataError, UserError
from rvm_jax.planning.summary import architecture_rows
from rvm_jax.storage import files
from rvm_jax.terminal import counted, duration, progress_bars, table

if TYPE_CHECKING:
    from rvm_jax.data.sources.folder import FolderSource

MAX_JSON = 2**26  # bytes of a run's lock and of its report on data, which names every video that failed
PICTURED = 36  # frames in the contact sheet of shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm info`."""
    parser.add_argument('config', metavar='PATH', help='recipe, workdir, export folder, RVM .npz, image '
                        'encoder (Hugging Face folder or .pth), folder of shards, or videos')  # fmt: skip
    parser.add_argument('--quick', action='store_true', help='shards: do not read them whole')
    parser.add_argument('--picture', help='shards: where the contact sheet goes (default: contact_sheet.png in the '
                        'folder)')  # fmt: skip
    parser.add_argument_group('any key of a recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it before looking'
    )


def run(args: argparse.Namespace) -> None:
    """Print a few lines."""
    path, overrides = args.config, args.overrides
    if path.endswith('.py'):
        return print(describe_recipe(path, overrides))
    if overrides:
        raise UserError(f'--config.{overrides[0]}', f'{path} is not a recipe', 'leave it out')
    if os.path.isfile(path) and not path.endswith(('.npz', '.pth', '.txt')):
        return print(table(video_rows(path)))
    from rvm_jax.data import shard_format

    if shard_format.is_shards(path):
        return show_shards(path, args.quick, args.picture or os.path.join(path, 'contact_sheet.png'))
    from rvm_jax import pretrained

    try:
        kind = pretrained.model_kind(path)
    except UserError:
        if (source := video_source(path)) is None:
            raise
        is_frames = os.path.isdir(path) and os.path.samefile(path, os.path.join(source.root, source.names[0]))
        return print(table(video_rows(path) if is_frames else folder_rows(path, source)))
    if kind == 'workdir':
        return print(table(workdir_rows(path)))
    return print(table(model_rows(path, kind)))


def describe_recipe(path: str, overrides: Iterable[str]) -> str:
    """What a recipe builds and costs, then every key with its value."""
    from rvm_jax import config as configs
    from rvm_jax.conversion.frozen import resolve
    from rvm_jax.models import cost

    config = configs.load(path, overrides)
    data = config.data
    arch, _ = resolve(config)
    sizes = {'num_source': data.num_source, 'num_target': data.num_target, 'image_size': data.image_size}
    rows = [
        ('recipe', path),
        *architecture_rows(arch),
        ('clip', f'{data.num_source} source and {data.num_target} target frames of {data.image_size} x '
                 f'{data.image_size} pixels at {data.fps:g} frames per second'),
        ('training', f'{config.steps:,} steps of {config.batch_size:,} clips, {config.steps * config.batch_size:,} in '
                     f'all, {cost.train_flops(arch, **sizes) / 1e9:,.1f} GFLOP a clip'),
    ]  # fmt: skip
    return f'{table(rows)}\n\n{key_listing(config)}'


def key_listing(config: ConfigDict) -> str:
    """One line a key; those that differ from the defaults say so."""
    from rvm_jax import config as configs

    before, now = configs.flatten(configs.default()), configs.flatten(config)
    width = max(map(len, now))
    lines = ['keys (set one with --config.KEY=VALUE; config.py says what each means)']
    for key in sorted(now, key=lambda key: ('.' in key, key)):
        changed = f'    (default {before[key]!r})' if now[key] != before[key] else ''
        lines.append(f'  {key:{width}}  {now[key]!r}{changed}')
    return '\n'.join(lines)


def model_rows(path: str, kind: str) -> list[tuple[str, str]]:
    """An export folder, a released file or an image encoder."""
    from rvm_jax import pretrained

    arch = pretrained.read_architecture(path)
    what = {'export': 'export folder', 'official': 'RVM weights in the released layout', 'image': 'image encoder'}[kind]
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in os.listdir(path) if name.endswith(('.safetensors', '.bin'))]
    size = sum(map(os.path.getsize, paths))
    rows = [(what, path), *architecture_rows(arch)]
    rows.append(('weights', f'{size:,} bytes' if kind == 'image' else f'float32, {size:,} bytes'))
    if kind == 'export':
        rows.append(('trained at', f'{arch.image_size} x {arch.image_size} pixels, {arch.mask_ratio:.0%} masked'))
    if kind == 'image':
        rows.append(('trained at', f'{arch.image_size} x {arch.image_size} pixels'))
    return rows + pixel_rows(path, arch.image_encoder, is_own=kind == 'image')


def pixel_rows(path: str, image: Any, is_own: bool) -> list[tuple[str, str]]:
    """How frames become the input of an imported image encoder, and which file says so; [] for an encoder of ours.

    is_own: the encoder lies at the path; otherwise a config.json there has what was read when it was imported.
    """
    from rvm_jax.conversion import hugging_face

    if image is None:
        return []
    where = 'config.json'
    values: dict[str, Any] = {}
    if is_own:
        where, values = hugging_face.read_processor(path if os.path.isdir(path) else os.path.dirname(path))
    mean, deviation = (', '.join(f'{value:.4g}' for value in three) for three in (image.mean, image.std))
    sizes = ''.join(f', {key} {json.dumps(values[key])}' for key in ('size', 'crop_size') if values.get(key))
    where = f'{where or "no file, usual for " + image.family}{sizes}'
    return [('pixels', f'in [0, 1], minus mean {mean}, divided by deviation {deviation} ({where})')]


def workdir_rows(path: str) -> list[tuple[str, str]]:
    """A run: what, how far, with which numbers, and where to look."""
    from rvm_jax import config as configs
    from rvm_jax import pretrained
    from rvm_jax.training.checkpoint import FOLDER
    from rvm_jax.training.checkpoint_files import find_steps
    from rvm_jax.training.run_record import run_facts

    run = pretrained.read_run(path)
    config = configs.from_dict(run.get('config'), path)
    arch, steps = pretrained.read_architecture(path), find_steps(os.path.join(path, FOLDER))
    done = steps[-1] if steps else 0
    state = 'finished' if done >= config.steps else 'not finished; the same train command resumes it'
    rows = [
        ('workdir', f'{path} ({state})'),
        *architecture_rows(arch),
        *pixel_rows(path, arch.image_encoder, is_own=False),
        *((what.lower(), text) for what, text in run_facts(path, run, config, done).items()),
        ('checkpoints', ', '.join(map(str, steps)) or 'none'),
    ]
    return rows + _run_state(path, config.steps)


def _run_state(path, steps):
    """Rows for what may be there: numbers, a lock, videos that failed, pictures."""
    from rvm_jax.storage.run_lock import is_stale
    from rvm_jax.training.progress import format_line
    from rvm_jax.training.writer import read_metrics

    rows = []
    if logged := [entry for entry in read_metrics(os.path.join(path, 'metrics.jsonl')) if 'loss' in entry]:
        rows.append(('last logged', format_line(logged[-1]['step'], steps, logged[-1])))
    if owner := _read_json(os.path.join(path, 'run.lock')):
        gone = '; it is gone, and the next start takes the lock over' if is_stale(path, owner) else ''
        rows.append(('run.lock', f'process {owner.get("pid")} on {owner.get("host")} since {owner.get("since")}{gone}'))
    if report := _read_json(os.path.join(path, 'data_report.json')):
        failed, clips = report.get('failed'), report.get('clips')
        rows.append(('videos', f'{clips} clips read, {failed} could not be (data_report.json)'))
    images = os.path.join(path, 'images')
    if names := files.names(images):
        rows.append(('pictures', f'{images}: {", ".join(names[-3:])}' + (' ...' if len(names) > 3 else '')))
    return rows


def _read_json(path):
    try:
        values = files.read_json(path, MAX_JSON)
    except (OSError, ValueError):  # absent, or being written just now
        return None
    return values if isinstance(values, dict) else None


def show_shards(path: str, is_quick: bool, picture: str) -> None:
    """Print what a folder of shards holds, check it, and draw some of it. DataError if shards are damaged."""
    from rich.progress import DownloadColumn, Progress

    from rvm_jax.data import shard_format, verify_shards
    from rvm_jax.visualization.canvas import contact_sheet, write_png

    manifest = shard_format.read_manifest(path)
    rows = shard_rows(path, manifest)
    print(table(rows))
    with progress_bars(*Progress.get_default_columns(), DownloadColumn(), transient=True) as progress:
        bar = progress.add_task('reading', total=sum(shard['bytes'] for shard in manifest['shards']))
        damaged = verify_shards.damaged_shards(path, manifest, not is_quick, lambda size: progress.advance(bar, size))
    if damaged:
        more = f', and {len(damaged) - 8} more' if len(damaged) > 8 else ''
        raise DataError(
            path,
            f'damaged shards, {len(damaged)} of {len(manifest["shards"])}: {", ".join(damaged[:8])}{more}',
            shard_format.AGAIN,
        )
    depth = 'sizes and numbers of records' if is_quick else 'checksums'
    width = max(len(what) for what, _ in rows)
    print(table([('checked', f'{depth} of all shards are right, {len(manifest["shards"])} in number')], width))
    try:
        write_png(picture, contact_sheet(verify_shards.samples(path, manifest, PICTURED)))
    except Exception as error:  # a folder that is mounted to be read only, or a library that cannot draw
        picture = f'none: {getattr(error, "strerror", None) or error}; name a place for it with --picture'
    print(table([('picture', picture)], width))


def shard_rows(path: str, manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """A folder of shards."""
    settings, rows = manifest['settings'], [('shards', f'{path}, by rvm_jax {manifest["version"]}')]
    for name, split in manifest['splits'].items():
        count, size = 0, 0
        for shard in manifest['shards']:
            count, size = count + (shard['split'] == name), size + shard['bytes'] * (shard['split'] == name)
        rows.append((name, f'{counted(split["videos"], "video")}, {counted(split["clips"], "clip")} of '
                           f'{settings["clip_frames"]} frames, '
                           f'{duration(3600 * split["hours"])}, {size / 1e6:,.1f} MB in {counted(count, "shard")}'
                     if split['videos'] else 'nothing'))  # fmt: skip
    group = f', {settings["group"]} frames together' if settings['group'] > 1 else ''
    side = f'shorter side {settings["short_side"]} pixels at most' if settings['short_side'] else 'original size'
    rows.append(('frames', f'{settings["fps"]:g} per second, {side}, {settings["codec"]} of quality '
                           f'{settings["quality"]}{group}'))  # fmt: skip
    for key, what in (('fps', 'original rates'), ('size', 'original sizes')):
        counts = manifest['histograms'][key]
        more = f', and {len(counts) - 6} more' if len(counts) > 6 else ''
        rows.append((what, ', '.join(f'{value} ({count:,})' for value, count in list(counts.items())[:6]) + more))
    rows.append(('left out', f'{manifest["skipped"]:,} (skipped.json)' if manifest['skipped'] else 'nothing'))
    return rows


def video_source(path: str) -> 'FolderSource | None':
    """The videos of a folder, a glob or a list; None if there are none."""
    from rvm_jax.data.sources.folder import FolderSource

    try:
        return FolderSource(path)
    except UserError:
        return None


def folder_rows(path: str, source: 'FolderSource') -> list[tuple[str, str]]:
    """Many videos: how many and how long, their sizes and rates, and those that do not open."""
    from rvm_jax.data.video import decode
    from rvm_jax.data.video.frame_folder import video_bytes

    infos, failed, size = [], [], 0
    videos = [source[index] for index in range(len(source))]
    with progress_bars(transient=True) as progress:
        for video in progress.track(videos, description='reading'):
            try:
                infos.append(decode.probe(video.name))
                size += video_bytes(video.name)
            except DataError as error:
                failed.append(error)
    if not infos:
        raise failed[0]
    seconds = sum(info.duration_s or 0 for info in infos)
    unstated = sum(not info.duration_s for info in infos)
    length = duration(seconds) if unstated < len(infos) else 'length not stated'
    rows = [('videos', f'{path}: {len(infos):,} that open, {length}, {size / 1e6:,.1f} MB')]
    if 0 < unstated < len(infos):
        rows.append(('length', f'{unstated:,} do not state it, and are not counted'))
    for what, texts in (
        ('sizes', [f'{info.width} x {info.height}' for info in infos]),
        ('rates', [f'{info.fps:.4g}' if info.fps else 'not stated' for info in infos]),
    ):
        counts = collections.Counter(texts).most_common()
        more = f', and {len(counts) - 6} more' if len(counts) > 6 else ''
        rows.append((what, ', '.join(f'{text} ({count:,})' for text, count in counts[:6]) + more))
    if failed:
        rows.append(('not opened', f'{len(failed):,}, such as {failed[0].value}: {failed[0].reason}'))
    return rows


def video_rows(path: str) -> list[tuple[str, str]]:
    """A video file, or a folder of frames."""
    from rvm_jax.data.video import decode
    from rvm_jax.data.video.frame_folder import RATE

    info = decode.probe(path)
    unknown = 'not stated'
    return [
        ('video', path),
        ('size', f'{info.width} x {info.height} pixels, upright' + (
            f' after turning by {info.rotation} degrees' if info.rotation else '') + (
            ', mirrored' if info.is_mirrored else '')),
        ('frames', f'{info.num_frames:,}' if info.num_frames else unknown),
        ('rate', f'{info.fps:.3f} frames per second' if info.fps else unknown if info.has_times else
                 f'{unknown}: there is no {RATE}, so frames are taken as already at the rate that is asked for'),
        ('duration', f'{info.duration_s:.2f} s' if info.duration_s else unknown),
    ]  # fmt: skip


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['info', *sys.argv[1:]])

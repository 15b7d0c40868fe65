"""Turn videos into shards that training reads many times faster: no labels, no lists, one command.

Examples:
    rvm prepare --input videos --output shards
    rvm prepare --input videos --output shards --fps 25 --val 0.05
    rvm prepare --input segments.csv --output shards          # a line "path,start,end" on top; seconds
    rvm prepare --input '/data/**/*.mp4' --output shards --codec h264 --group 32
    rvm prepare --input videos --output /shared/shards --runner FlinkRunner --flink_master=HOST:8081

Stop it at any time: the same line resumes. OUTPUT ends up with train-*.array_record, val-*.array_record, manifest.json
and skipped.json, which names every file that was left out, with the reason. Train with --config.data.path=OUTPUT
--config.data.eval_path=OUTPUT; look with `rvm info OUTPUT`.

With --runner the videos are prepared by Apache Beam, on as many machines as the runner has. The videos and OUTPUT must
have the same paths on this machine and every worker (NFS, Filestore, Lustre, gcsfuse), and the workers need
rvm_jax[beam]. Beam's flags say how many workers there are. Either way can finish what the other has begun.
"""

import argparse
import importlib.util
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from rvm_jax.errors import UserError, printable
from rvm_jax.signals import StopRequest
from rvm_jax.terminal import counted, duration, log_to_terminal

if TYPE_CHECKING:  # loaded when the command runs, not for its --help
    from rvm_jax.data.prepare.encode_video import Settings
    from rvm_jax.data.prepare.prepare_job import PrepareJob

CODECS = ('jpeg', 'h264')
PASSES_ON = 'runner'  # with this flag, flags unknown here are Beam's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm prepare`."""
    parser.add_argument('--input', required=True, help='folder, glob, text file with one video a line, CSV, or video '
                        '(a folder of numbered pictures is one)')  # fmt: skip
    parser.add_argument('--output', required=True, help='folder for the shards')
    parser.add_argument('--fps', type=float, default=10.0, help='frames per second to keep (default: 10)')
    parser.add_argument('--short-side', type=int, default=256, help='pixels of the shorter side at most, 0: as is '
                        '(default: 256)')  # fmt: skip
    parser.add_argument('--val', type=float, default=0.01, help='fraction of the videos held out (default: 0.01)')
    parser.add_argument('--codec', choices=CODECS, default='jpeg', help='jpeg: fastest to read; h264: smaller '
                        '(default: jpeg; docs/data.md says which to take when)')  # fmt: skip
    parser.add_argument('--quality', type=int, help='of JPEG, 1 to 100, higher is better (default: 90); of h264, the '
                        'constant rate factor, 0 to 51, lower is better (default: 20)')  # fmt: skip
    parser.add_argument('--group', type=int, help='frames of h264 that decode together (default: 8)')
    parser.add_argument('--clip-frames', type=int, default=64, help='frames that a training clip spans (default: 64)')
    parser.add_argument('--clips-per-video', type=int, default=0, help='keep only so many clips, evenly spread, of a '
                        'longer video (default: 0, all of it)')  # fmt: skip
    parser.add_argument('--min-frames', type=int, default=8, help='leave out what is shorter (default: 8)')
    parser.add_argument(
        '--shard-mb', type=int, default=256, help='megabytes after which a shard is full (default: 256)'
    )
    parser.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)), help='processes (default: all '
                        'cores)')  # fmt: skip
    parser.add_argument('--timeout', type=float, default=60.0, help='seconds without a frame after which a video is '
                        'given up (default: 60)')  # fmt: skip
    parser.add_argument('--runner', help='run as an Apache Beam pipeline instead: DirectRunner, DataflowRunner, '
                        'FlinkRunner, SparkRunner ...; then any flags of Beam (needs the extra: beam)')  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Make the shards and print what was made, or that nothing is left to do."""
    settings = checked_settings(args)
    from rich.console import Console

    from rvm_jax.data.prepare.prepare_job import PrepareJob
    from rvm_jax.data.prepare.prepare_pool import run_here
    from rvm_jax.data.sources.folder import warn_of_rates

    with Console().status('looking at every video'):  # shown on a terminal only
        work = PrepareJob(args.input, args.output, settings, args.val)
    manifest = work.finished()
    if manifest:
        print(f'{args.output}: nothing to do, all {len(work.tasks):,} videos are prepared')
    else:
        warn_of_rates(args.input, (task.path for task in work.tasks), args.fps, '--fps')
        if work.outside:
            first = printable(work.outside[0])
            print(f'{args.input}: {counted(len(work.outside), "video")} in other folders; the first is {first}')
        with work.begin():
            outcomes, entries = run_beam(work, args) if args.runner else run_here(work, args.workers, args.timeout)
            manifest = work.finish(outcomes, entries)
    print(summary(args.output, manifest, args.val))


def checked_settings(args: argparse.Namespace) -> 'Settings':
    """The settings that the flags ask for. UserError, naming the flag, where they make no sense."""
    from rvm_jax.data.prepare.encode_video import Settings
    from rvm_jax.data.video.shard_codecs import QUALITY

    group = args.group or (1 if args.codec == 'jpeg' else 8)
    quality = QUALITY[args.codec] if args.quality is None else args.quality
    for is_right, value, reason, fix in _rules(args, group, quality):
        if not is_right:
            raise UserError(value, reason, fix)
    return Settings(
        fps=args.fps,
        short_side=args.short_side,
        codec=args.codec,
        quality=quality,
        group=group,
        clip_frames=args.clip_frames,
        clips_per_video=args.clips_per_video,
        min_frames=args.min_frames,
        shard_bytes=args.shard_mb * 2**20,
    )


def _rules(args, group, quality):
    """[(whether a flag makes sense, the flag, what is wrong with it otherwise, what to do)]."""
    low, high = (1, 100) if args.codec == 'jpeg' else (0, 51)
    return [
        (0 < args.fps < 1000, f'--fps {args.fps:g}', 'is not a frame rate', 'give frames per second, such as 10'),
        (args.short_side >= 0, f'--short-side {args.short_side}', 'is negative', 'give pixels, or 0 for no limit'),
        (0 <= args.val < 1, f'--val {args.val:g}', 'is not a fraction', 'give 0 or more, below 1'),
        (low <= quality <= high, f'--quality {quality}', f'is not a quality of {args.codec}', f'give {low} to {high}'),
        (group == 1 or (args.codec == 'h264' and group > 0), f'--group {group}', f'does not go with {args.codec}',
         'give --codec h264 with it, and 1 or more'),
        (args.clip_frames > 0, f'--clip-frames {args.clip_frames}', 'must be above 0', 'give frames, such as 64'),
        (args.clips_per_video >= 0, f'--clips-per-video {args.clips_per_video}', 'is negative', 'give 0 for all'),
        (args.min_frames > 0, f'--min-frames {args.min_frames}', 'must be above 0', 'give frames, such as 8'),
        (args.shard_mb > 0, f'--shard-mb {args.shard_mb}', 'must be above 0', 'give megabytes, such as 256'),
        (args.workers > 0, f'--workers {args.workers}', 'must be above 0', 'give a number of processes'),
        (args.timeout > 0, f'--timeout {args.timeout:g}', 'must be above 0', 'give seconds'),
    ]  # fmt: skip


def run_beam(work: 'PrepareJob', args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """The same, made by a Beam pipeline; its runner shows the progress."""
    if importlib.util.find_spec('apache_beam') is None:
        raise UserError(
            f'--runner {args.runner}', 'needs apache-beam, which is not installed', "pip install 'rvm_jax[beam]'"
        )
    log_to_terminal('')  # what Beam's libraries log, too
    logging.disable(logging.WARNING)  # when it is imported, Beam warns of its own extras that are not installed
    try:
        from rvm_jax.data.prepare.prepare_beam import run_pipeline
    finally:
        logging.disable(logging.NOTSET)
    with StopRequest(interrupts=True) as stop:
        try:
            return run_pipeline(work, args.runner, args.passed_on, args.timeout)
        except KeyboardInterrupt:
            stop.check('what is done is kept')
            raise


def summary(output: str, manifest: dict[str, Any], val_fraction: float) -> str:
    """A few lines: what there is, what was left out, and what to do next."""
    splits = {name: split for name, split in manifest['splits'].items() if split['videos']}
    size, count = sum(shard['bytes'] for shard in manifest['shards']), len(manifest['shards'])
    lines = [
        f'{output}: ' + ', '.join(
            f'{name} {counted(split["videos"], "video")}, {counted(split["clips"], "clip")}, '
            f'{duration(3600 * split["hours"])}'
            for name, split in splits.items()
        )
        + f', {size / 1e6:,.1f} MB in {counted(count, "shard")}'
    ]  # fmt: skip
    if manifest['skipped']:
        lines.append(f'{manifest["skipped"]:,} left out; {os.path.join(output, "skipped.json")} says why')
    if val_fraction and 'val' not in splits:
        reason = f'no video is held out: by chance, --val {val_fraction:g} took none of them'
        lines.append(f'{reason}; raise it, or prepare held-out videos apart')
    path = shlex.quote(output)  # the line is there to be copied
    held_out = f' --config.data.eval_path={path}' if 'val' in splits else ''
    lines.append(f'train on it: --config.data.path={path}{held_out} --config.data.fps={manifest["settings"]["fps"]:g}')
    return '\n'.join(lines)


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['prepare', *sys.argv[1:]])

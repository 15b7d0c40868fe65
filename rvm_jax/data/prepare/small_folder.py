"""A small folder of videos becomes shards in the workdir before training, because shards are read many times faster.

The work is that of `rvm prepare`. Every video is one record, as it is without shards, so the recipe draws the same
clips, up to JPEG's losses. A run keeps to what it began with: one that has begun to read the videos themselves resumes
so, and one that has shards reads these, whatever data.prepare_gb says by then.
"""

import os

import ml_collections

from rvm_jax.data import shard_format
from rvm_jax.data.clips import TOO_FEW
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.prepare.encode_video import Settings
from rvm_jax.data.prepare.prepare_job import PrepareJob
from rvm_jax.data.prepare.prepare_pool import TIMEOUT, run_here
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.data.sources.shard_source import ShardSource
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files
from rvm_jax.terminal import counted, say

SHARDS = 'shards'  # folder in the workdir
WORTH_IT = 10  # clips of each video in a run, from which on decoding all of it once is less work
SHORT_SIDE = 128  # pixels kept at least, so that crops of a small model are not blurred


def with_shards(
    config: ml_collections.ConfigDict, workdir: str, videos: Mixture, is_begun: bool, is_alone: bool
) -> Mixture:
    """The training videos of a config as shards in workdir if they are few, else as they are.

    The caller holds the workdir's lock. is_begun: whether a run has begun in workdir; is_alone: whether this is its
    only process, which may make shards. UserError if the run's shards are of other videos or settings, and
    data.allow_change is not set; DataError if more videos are damaged than data.max_failures says; Stopped on a signal.
    """
    data, shards = config.data, os.path.join(workdir, SHARDS)
    is_wanted = os.path.isdir(shards) if is_begun else is_alone and _is_worth_it(config, workdir, videos)
    if not is_wanted:
        return videos
    if not _is_folder(videos):
        _check_may_change(data, shards)
        return videos
    job = PrepareJob(data.path, shards, _settings(data), val_fraction=0.0)
    if not job.is_made():
        if is_begun:
            _check_may_change(data, shards)
        if not is_alone:
            return videos
        _make(job, data)
    _check_damage(job, data)
    return Mixture([Part(ShardSource(shards, 'train'), data.fps)])


def _is_folder(videos):
    return len(videos.parts) == 1 and isinstance(videos.parts[0].source, FolderSource)


def _is_worth_it(config, workdir, videos):
    if not config.data.prepare_gb or files.is_remote(workdir) or config.data.mixture or not _is_folder(videos):
        return False
    if config.steps * config.batch_size < WORTH_IT * len(videos):
        return False
    return sum(size for _, size, _ in videos.parts[0].source.manifest()) <= config.data.prepare_gb * 1e9


def _check_may_change(data, shards):
    if not data.allow_change:
        raise UserError(
            data.path or 'data.mixture', f'is not what {shards} were made of: videos or keys of data have changed',
            'set them back, continue with --config.data.allow_change=true, or start a new run in another workdir',
        )  # fmt: skip


def _settings(data):
    return Settings(
        fps=data.fps,
        short_side=max(data.image_size, SHORT_SIDE),
        clip_frames=data.clip_frames,
        min_frames=data.num_source + data.min_gap,
    )


def _make(job, data):
    if os.path.isdir(job.output) and not job.is_begun():
        files.remove_folder(job.output)
    say(
        f'{data.path}: {counted(len(job.tasks), "video")} become shards in {job.output}, which are read many times '
        'faster (--config.data.prepare_gb=0: never)'
    )
    with job.begin():
        manifest = job.finish(*run_here(job, len(os.sched_getaffinity(0)), TIMEOUT))
    if manifest['skipped']:
        report = os.path.join(job.output, shard_format.SKIPPED)
        say(f'{counted(manifest["skipped"], "video")} cannot be used; {report} says why')


def _check_damage(job, data):
    report = os.path.join(job.output, shard_format.SKIPPED)
    reasons = files.read_json(report)['reasons']
    damaged = sum(len(videos) for reason, videos in reasons.items() if not reason.startswith(TOO_FEW))
    if damaged > data.max_failures * len(job.tasks):
        raise DataError(
            f'{damaged:,} of {counted(len(job.tasks), "video")}',
            f'could not be read, more than the {data.max_failures:.1%} allowed',
            f'repair or remove those that {report} lists, or raise --config.data.max_failures',
        )

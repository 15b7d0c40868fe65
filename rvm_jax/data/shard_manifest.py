"""Checks of a manifest.json of shards, before anything in it is used: see shard_format.py."""

import math
import os
from typing import Any, TypeVar

import numpy as np

SPLITS = ('train', 'val')
CODECS = ('jpeg', 'h264')
SHARD = '.array_record'  # the end of its name
TOTALS = ('videos', 'sequences', 'clips', 'frames', 'hours')
NO_MANIFEST = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
MAX_FPS = 1000
MAX_FRAMES = 2**31 - 1  # of a sequence
Frames = TypeVar('Frames', int, np.ndarray)


def num_groups(num_frames: Frames, group: int) -> Frames:
    """Records that a sequence takes."""
    return -(-num_frames // group)


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise one of NO_MANIFEST, with what is wrong, if this is not a manifest of shards."""
    settings, shards = manifest['settings'], manifest['shards']
    _expect(_is_number(settings['fps']) and 0 < settings['fps'] <= MAX_FPS, 'fps')
    _expect(_is_count(settings['group']) and 0 < settings['group'] <= MAX_FRAMES, 'group')
    _expect(settings['codec'] in CODECS and (settings['codec'] != 'jpeg' or settings['group'] == 1), 'codec')
    _expect(all(_is_count(settings[name]) for name in ('short_side', 'quality', 'clip_frames')), 'settings')
    _expect(isinstance(manifest['version'], str) and manifest['version'].isprintable(), 'version')
    _expect(_is_count(manifest['skipped']), 'skipped')
    _expect(manifest['splits'].keys() == set(SPLITS), 'splits')
    _expect(all(_is_number(manifest['splits'][split][name]) for split in SPLITS for name in TOTALS), 'splits')
    for name in ('fps', 'size'):
        counts = manifest['histograms'][name]
        _expect(all(key.isprintable() and _is_count(count) for key, count in counts.items()), 'histograms')
    _expect(isinstance(shards, list), 'shards')
    for shard in shards:
        check_shard(shard)
        if num_groups(np.array(shard['frames']), settings['group']).sum() + 1 != shard['records']:
            raise ValueError(f'it contradicts itself about {shard["name"]}')


def check_shard(shard: dict[str, Any]) -> None:
    """The same for the entry of one shard."""
    name = shard['name']
    # A manifest from elsewhere must not open files of other folders, or of other kinds.
    _expect(
        isinstance(name, str) and name == os.path.basename(name) and name.isprintable() and name.endswith(SHARD), 'name'
    )
    _expect(shard['split'] in SPLITS, 'split')
    _expect(_is_count(shard['bytes']) and _is_count(shard['records']), 'bytes')
    _expect(isinstance(shard['sha256'], str), 'sha256')
    frames = np.array(shard['frames'])
    _expect(frames.ndim == 1 and frames.dtype.kind == 'i' and len(frames), 'frames')
    _expect(frames.min() > 0 and frames.max() <= MAX_FRAMES, 'frames')


def _expect(is_right, key):
    if not is_right:
        raise ValueError(f'{key!r} is not what it must be')


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value):
    return isinstance(value, (int, float)) and 0 <= value < math.inf

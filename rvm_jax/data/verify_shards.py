"""Checks that a folder of shards is what its manifest says, and shows what is in it."""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from rvm_jax.data import shard_format
from rvm_jax.data.shard_manifest import SPLITS
from rvm_jax.data.sources.shard_source import ShardSource
from rvm_jax.errors import DataError
from rvm_jax.storage import files

THREADS = 4  # reading and hashing release Python's global lock


def damaged_shards(
    folder: str, manifest: dict[str, Any], reads_all: bool, on_done: Callable[[int], None] = lambda size: None
) -> list[str]:
    """One reason per damaged shard: sizes and numbers of records, and, if reads_all, checksums of whole files.

    on_done is given the size of each shard, in bytes, when it is checked.
    """

    def check(shard):
        try:
            _check_shard(folder, shard, reads_all)
        except DataError as error:
            return f'{error.value} {error.reason}'
        finally:
            on_done(shard['bytes'])

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return [reason for reason in pool.map(check, manifest['shards']) if reason]


def _check_shard(folder, shard, reads_all):
    shard_format.check_sizes(folder, [shard])
    path = os.path.join(folder, shard['name'])
    shard_format.ShardReader(path, shard['records']).close()
    if reads_all and files.digest(path, 'sha256') != shard['sha256']:
        raise DataError(path, 'does not match its checksum', shard_format.AGAIN)


def samples(folder: str, manifest: dict[str, Any], count: int) -> list[tuple[str, np.ndarray]]:
    """[(name, middle frame HWC)] of sequences spread evenly over all splits; damaged ones are left out."""
    sources = [ShardSource(folder, split) for split in SPLITS if manifest['splits'][split]['sequences']]
    sequences = [(source, index) for source in sources for index in range(len(source))]
    count, found = min(count, len(sequences)), []
    for number in range(count):
        source, index = sequences[(2 * number + 1) * len(sequences) // (2 * count)]
        try:
            sequence = source[index]
            name, middle = sequence.describe()['name'], sequence.count(source.fps) // 2
            found.append((name, sequence.pictures([middle], source.fps).decode()[0]))
        except DataError:
            continue  # `damaged_shards` names it
    return found

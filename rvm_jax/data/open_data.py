"""What config.data names, opened: a mixture to train on, and the held-out videos."""

import math
import os
from typing import Any

from ml_collections import ConfigDict

from rvm_jax import plugins
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource, warn_of_rates
from rvm_jax.data.sources.shard_source import ShardSource
from rvm_jax.data.sources.source import Source
from rvm_jax.data.sources.tfds import TfdsSource
from rvm_jax.errors import UserError
from rvm_jax.storage import files

# The first that knows a path opens it. FolderSource is last: it takes all that is left, and says what is wrong with it.
SOURCES: tuple[type[Any], ...] = (ShardSource, TfdsSource, FolderSource)


def open_training(data: ConfigDict) -> Mixture:
    """The Mixture of `config.data`: data.mixture, or data.path alone.

    UserError if something is not there, or shards hold fewer frames per second than the config wants.
    """
    if not data.mixture:
        return Mixture([_part(data.path, 'train', data.fps, 1.0, 'config.data.fps')])
    return Mixture(_part(path, 'train', fps, weight, 'config.data.mixture') for path, fps, weight in data.mixture)


def open_held_out(data: ConfigDict) -> Mixture | None:
    """The Mixture, of one part, at data.eval_path, or None where that is empty."""
    return Mixture([_part(data.eval_path, 'val', data.fps, 1.0, 'config.data.fps')]) if data.eval_path else None


def open_source(path: str, split: str) -> Source:
    """The source at a path, or the plug-in MODULE:CLASS or MODULE:CLASS:ARGUMENT, which is called with the argument.

    split, 'train' or 'val', counts for shards, TFDS datasets and plug-ins, which may know which is which.
    """
    if files.is_remote(path):
        fix = 'mount it on every host (gcsfuse), or copy it there'
        raise UserError(path, 'is in a bucket, and data are read from files', fix)
    name, argument = plugins.split_argument(path)
    if name and not os.path.lexists(path):
        return _open_own(name, os.path.expanduser(argument), split)
    return next(source for source in SOURCES if source.knows(path))(path, split)


def _open_own(name, argument, split):
    """The source of a plug-in, checked for what only an instance has."""
    source = plugins.find(name, plugins.SOURCE)(argument, split)
    if lacking := [attribute for attribute in ('path', 'fps') if not hasattr(source, attribute)]:
        raise UserError(name, f'is not a valid data source: it lacks {", ".join(lacking)}', plugins.EXAMPLE)
    if not len(source):
        raise UserError(name, 'holds no video', f'check what it is given ({argument!r})')
    return source


def _part(path, split, fps, weight, key):
    for value in (fps, weight):
        if not 0 < value < math.inf:
            reason = f'has {value:g} as a frame rate or weight'
            raise UserError(path, reason, f'correct {key}: both are above 0, and finite')
    source = open_source(path, split)
    if source.fps and fps > source.fps + 1e-6:
        reason = f'holds {source.fps:g} frames per second, fewer than the {fps:g} of {key}'
        raise UserError(path, reason, f'set {key} to {source.fps:g} or less, or prepare the data with --fps {fps:g}')
    if isinstance(source, FolderSource):
        warn_of_rates(path, [source[index].name for index in range(len(source))], fps, key)
    return Part(source, fps, weight)

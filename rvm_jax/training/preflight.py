"""Mistakes in a config that `config.check` cannot see, so that a command reports them with all other mistakes.

No device is used and no list of files is read for it. What needs those is checked later, where they are used.
"""

import glob
import os

import ml_collections

from rvm_jax import config as configs
from rvm_jax import plugins
from rvm_jax.data.open_data import open_source
from rvm_jax.errors import UserError
from rvm_jax.models import architecture


def config_problems(config: ml_collections.ConfigDict) -> list[UserError]:
    """UserErrors about data that do not exist and sizes that do not fit; other values may still be wrong."""
    data = config.data
    places = [path for path, _, _ in data.mixture] or [data.path]
    places += [data.eval_path] if data.eval_path else []
    errors = []
    for check, value in [*((_check_place, place) for place in places), (_check_sizes, config)]:
        try:
            check(value)
        except UserError as error:
            errors.append(error)
    return errors


def _check_place(path):
    name, _ = plugins.split_argument(path)
    if name and not os.path.lexists(path):
        return  # a plug-in: `config.check` has looked for it, and what it opens is its own affair
    if not glob.has_magic(path) and not os.path.lexists(os.path.expanduser(path)):
        open_source(path, 'train')  # a TFDS data set, or it raises what is wrong


def _check_sizes(config):
    known = all(configs.is_choice(f'model.{key}', value) for key, value in config.model.items())
    if known and not config.model.encoder_path:
        architecture.from_config(config)

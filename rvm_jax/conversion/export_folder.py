"""Reading our own export folders: config.json and model.safetensors."""

import collections
import dataclasses
import os
import typing
from typing import Any

import numpy as np

from rvm_jax import plugins
from rvm_jax.config import CHOICES
from rvm_jax.conversion.safetensors import read_safetensors
from rvm_jax.errors import UserError
from rvm_jax.models import build
from rvm_jax.models.architecture import HOW_USED, Architecture
from rvm_jax.models.catalog import CORES, ENCODERS, NO_CORE
from rvm_jax.models.encoders import image_architecture, image_vit
from rvm_jax.storage import files

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
MAX_JSON = 2**20  # bytes; it grows by a factor of 25 when it is parsed, and an index of shards has 0.1 million
LARGEST = 65_536  # of any size in an architecture; a config.json beyond it is damaged or hostile
MOST_LAYERS = 128  # the largest image encoders have 48
# What config.py offers, and what only an image encoder by itself has.
TEXTS = {name.rpartition('.')[2]: choices for name, choices in CHOICES.items()} | {
    'core': collections.ChainMap[str, Any]({NO_CORE: ''}, CORES),
    'family': image_architecture.FAMILIES,
    'activation': image_vit.ACTIVATIONS,
    'interpolation': (*image_architecture.INTERPOLATIONS, ''),
    'target': tuple(build.TARGETS),
}


def is_export(path: str | os.PathLike) -> bool:
    """Whether a folder is one, by its names alone."""
    return {CONFIG, WEIGHTS} <= set(files.names(path)) and 'architecture' in _or_empty(os.path.join(path, CONFIG))


def read_export(path: str | os.PathLike) -> tuple[Architecture, dict[str, np.ndarray]]:
    """(Architecture, {name: array}) of an export folder. UserError if it is damaged or not one."""
    return read_export_architecture(path), read_safetensors(os.path.join(path, WEIGHTS))


def read_export_architecture(path: str | os.PathLike) -> Architecture:
    """The Architecture of an export folder. UserError if it is damaged or not one."""
    return architecture_from(read_json(os.path.join(path, CONFIG)).get('architecture'), path)


def architecture_from(values: Any, origin: str | os.PathLike) -> Architecture:
    """An Architecture from a config.json, every value checked for its type and size.

    UserError for one that makes no sense, or whose core is a plug-in that is not imported: the file may be anybody's.
    """
    if not isinstance(values, dict):
        raise UserError(origin, f'its {CONFIG} lacks or adds architecture', 'was it written by rvm_jax?')
    values = {name: getattr(Architecture, name) for name in HOW_USED} | values
    image = values.get('image_encoder')
    image = None if image is None else _checked(image_architecture.ImageArchitecture, image, origin)
    arch = _checked(Architecture, values | {'image_encoder': None}, origin)
    arch = dataclasses.replace(arch, image_encoder=image)
    if plugins.is_name(arch.core):
        plugins.find(arch.core, plugins.CORE, origin)
    for name, is_right in _sense(arch):
        if not is_right:
            value = getattr(arch, name, None) if hasattr(arch, name) else getattr(image, name)
            raise UserError(origin, f'its {CONFIG} has {name}={value!r}', 'was it written by rvm_jax?')
    return arch


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file of a model or a run. UserError if it does not hold one."""
    try:
        values = files.read_json(path, MAX_JSON)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(path, f'cannot be read ({reason})', 'copy the folder again') from error
    if not isinstance(values, dict):
        raise UserError(path, 'is not a JSON object', 'copy the folder again')
    return values


def _or_empty(path):
    try:
        return read_json(path)
    except UserError:
        return {}


def _sense(arch):
    """(field, whether its value makes sense beside the others) of all that a type and a range do not tell."""
    wanted = ['patch_size', 'width', 'image_size', 'num_source', 'encoder_layers', 'encoder_heads', 'encoder_head_dim']
    sizes = 'layers', 'heads', 'head_dim', 'mlp'
    wanted += [f'core_{size}' for size in sizes] if arch.core != NO_CORE else []
    if arch.decoder_width:
        wanted += [f'decoder_{size}' for size in sizes] + ['target_layers', 'target_heads', 'target_mlp']
    yield from ((name, getattr(arch, name) > 0) for name in wanted)
    yield from ((name, getattr(arch, name) < 1) for name in ('mask_ratio', 'core_dropout'))
    image = arch.image_encoder
    yield 'encoder', arch.encoder in (*ENCODERS, 'rvm') if image is None else arch.encoder == image.family
    if image is None:
        return
    for name in ('patch_size', 'image_size', 'width', 'layers', 'heads', 'mlp', 'epsilon'):
        yield name, getattr(image, name) > 0
    yield 'width', image.width == arch.width and image.width % image.heads == 0
    yield 'patch_size', image.patch_size == arch.patch_size
    yield 'encoder_layers', image.layers == arch.encoder_layers
    yield 'mean', len(image.mean) == 3
    yield 'std', len(image.std) == 3 and min(image.std) > 0
    yield 'position_grid', len(image.position_grid) in (0, 2) and all(side > 0 for side in image.position_grid)
    yield 'interpolation', bool(image.interpolation) == bool(image.position_grid)
    yield 'rope_periods', all(period > 0 for period in image.rope_periods)
    yield 'rope_periods', len(image.rope_periods) in (0, image.head_dim // 4)


def _checked(kind, values, origin):
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    if not isinstance(values, dict) or set(values) != set(types):
        wrong = sorted(set(values) ^ set(types)) if isinstance(values, dict) else [kind.__name__]
        raise UserError(origin, f'its {CONFIG} lacks or adds {", ".join(wrong[:8])}', 'was it written by rvm_jax?')
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in values.items():
        if not _fits(name, value, types[name]):
            raise UserError(origin, f'its {CONFIG} has {name}={value!r}', 'was it written by rvm_jax?')
    return kind(**values)


def _fits(name, value, wanted):
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return isinstance(value, tuple) and len(value) <= LARGEST and all(_fits(name, part, item) for part in value)
    if wanted is str:
        is_own_core = name == 'core' and isinstance(value, str) and plugins.is_name(value)
        return isinstance(value, str) and (name not in TEXTS or value in TEXTS[name] or is_own_core)
    if wanted in (int, float, bool):
        return type(value) is wanted and 0 <= value <= (MOST_LAYERS if name.endswith('layers') else LARGEST)
    return value is None

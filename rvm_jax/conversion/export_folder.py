"""Reading our own export folders: config.json and model.safetensors."""

import dataclasses
import os
import typing

from rvm_jax import storage
from rvm_jax.config import CHOICES
from rvm_jax.conversion.safetensors import read_safetensors
from rvm_jax.errors import UserError
from rvm_jax.models import build
from rvm_jax.models.encoders import image_architecture, image_vit

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
LARGEST = 65_536  # of any size in an architecture; a config.json beyond it is damaged or hostile
# What config.py offers, and what only an image encoder by itself has.
TEXTS = {name.rpartition('.')[2]: choices for name, choices in CHOICES.items()} | {
    'core': (*CHOICES['model.core'], 'identity'),
    'family': image_architecture.FAMILIES,
    'activation': image_vit.ACTIVATIONS,
    'interpolation': (*image_architecture.INTERPOLATIONS, ''),
}


def is_export(path):
    """Whether a folder is one, by its names alone."""
    return {CONFIG, WEIGHTS} <= set(storage.names(path)) and 'architecture' in _or_empty(os.path.join(path, CONFIG))


def read_export(path):
    """(Architecture, {name: array}) of an export folder. UserError if it is damaged or not one."""
    return read_export_architecture(path), read_safetensors(os.path.join(path, WEIGHTS))


def read_export_architecture(path):
    """The Architecture of an export folder. UserError if it is damaged or not one."""
    return architecture_from(read_json(os.path.join(path, CONFIG)).get('architecture'), path)


def architecture_from(values, origin):
    """An Architecture from a config.json, every value checked for its type and size."""
    if not isinstance(values, dict):
        raise UserError(origin, f'its {CONFIG} lacks or adds architecture', 'was it written by rvm_jax?')
    image = values.get('image_encoder')
    image = None if image is None else _checked(image_architecture.ImageArchitecture, image, origin)
    arch = _checked(build.Architecture, values | {'image_encoder': None}, origin)
    return dataclasses.replace(arch, image_encoder=image)


def read_json(path):
    """The object in a JSON file of a model or a run. UserError if there is none."""
    try:
        values = storage.read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(path, f'cannot be read ({error})', 'copy the folder again') from error
    if not isinstance(values, dict):
        raise UserError(path, 'is not a JSON object', 'copy the folder again')
    return values


def _or_empty(path):
    try:
        return read_json(path)
    except UserError:
        return {}


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
        return isinstance(value, str) and (name not in TEXTS or value in TEXTS[name])
    if wanted in (int, float, bool):
        return type(value) is wanted and 0 <= value <= LARGEST
    return value is None

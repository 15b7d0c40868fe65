"""The encoder that a config freezes: what it is, and its weights."""

import functools
import os

import numpy as np

from rvm_jax.conversion import export_folder, image_encoders, official_rvm
from rvm_jax.errors import UserError
from rvm_jax.models import build, param_names

PREFIX = 'encoder/'


def architecture(config):
    """The Architecture of a config, with the encoder that lies at model.encoder_path, or its standard sizes.

    Raises UserError if there is none, or if it does not go with the rest of the config.
    """
    model = config.model
    path = model.encoder_path
    imported = _imported(model.encoder, path, _state_of(path)) if path else None
    arch = build.architecture(config, imported)
    if model.target == 'mask_token' and not arch.image_encoder.mask_token:
        raise UserError(
            'config.model.target=mask_token', f'{model.encoder_path} has no mask token', 'take light_target'
        )
    return arch


def read_weights(config, arch):
    """({name: array} of the frozen encoder, its fingerprint) by names of the whole model; ({}, '') if it is trained.

    Raises UserError if config.model.encoder_path is empty, or does not hold that encoder.
    """
    if not arch.is_frozen:
        return {}, ''
    path = config.model.encoder_path
    if not path:
        raise UserError(
            'config.model.encoder_path=', f'where are the weights of {arch.encoder}?',
            'give a Hugging Face folder (config.json, *.safetensors) or .pth',
        )  # fmt: skip
    if arch.image_encoder is None:
        _, named = _read_rvm(path)
        named = {name.removeprefix(PREFIX): array for name, array in named.items() if name.startswith(PREFIX)}
    else:
        named = image_encoders.read_weights(path, arch.image_encoder)
    if arch.target == 'mask_token' and not np.any(named['mask_token']):
        raise UserError(
            'config.model.target=mask_token', f'the mask token of {path} is all zeros: it was never trained',
            'take light_target',
        )  # fmt: skip
    facts = arch.image_encoder or (arch.encoder_heads, arch.gelu, arch.position_resize)
    fingerprint = image_encoders.fingerprint(facts, named)
    named = {PREFIX + name: array for name, array in named.items()}
    shapes = param_names.named_shapes(build.abstract(arch))
    expected = {name: shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    param_names.compare(expected, {name: array.shape for name, array in named.items()}, path)
    return named, fingerprint


def _state_of(path):
    """What changes when the files at a path do."""
    files = [os.path.join(path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else [path]
    return tuple((file, os.stat(file).st_mtime_ns) for file in files if os.path.exists(file))


@functools.lru_cache(maxsize=16)
def _imported(encoder, path, state):
    if encoder != 'rvm':
        return image_encoders.read_architecture(path, family=encoder)
    arch = official_rvm.read_official(path)[0] if path.endswith('.npz') else None
    arch = arch or export_folder.read_export_architecture(_export(path))
    if arch.is_frozen:
        raise UserError(
            path, f'its own encoder is {arch.encoder}, frozen', 'name the weights that it was made with, not this model'
        )
    return arch


def _read_rvm(path):
    return official_rvm.read_official(path) if path.endswith('.npz') else export_folder.read_export(_export(path))


def _export(path):
    if not export_folder.is_export(path):
        is_workdir = os.path.isdir(os.path.join(path, 'checkpoints'))
        to_do = f'make one: rvm export --model {path} --output FOLDER'
        raise UserError(
            path,
            'is neither an export folder nor a released RVM .npz',
            to_do if is_workdir else 'name one as config.model.encoder_path',
        )
    return path

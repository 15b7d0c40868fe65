"""The encoder that a config freezes: what it is, and its weights."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from rvm_jax.conversion import export_folder, image_encoders, official_rvm
from rvm_jax.conversion.safetensors import read_safetensors
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, param_names, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

PREFIX = 'encoder/'


class FrozenEncoder(NamedTuple):
    """The weights that a run does not train, on the host: {} and '' where it trains all."""

    named: dict[str, np.ndarray]
    fingerprint: str

    def placed(self, abstract_frozen: Any) -> Any:
        """The weights on the devices, where and in the dtype that `abstract_frozen` says."""
        return trainable.place(param_names.fill(abstract_frozen, self.named), abstract_frozen)


class EncoderFiles(NamedTuple):
    """Where the weights of a config's frozen encoder are; `read` is the only one that reads them."""

    arch: Architecture  # of the whole model
    path: str
    reader: Callable[[], dict[str, np.ndarray]] | None  # None: not opened yet

    def read(self) -> FrozenEncoder:
        """The weights, by names of the whole model; nothing where the encoder is trained.

        Raises UserError if config.model.encoder_path is empty, or does not hold that encoder.
        """
        arch, path = self.arch, self.path
        if not arch.is_frozen:
            return FrozenEncoder({}, '')
        if not path:
            raise UserError(
                'config.model.encoder_path=', f'where are the weights of {arch.encoder}?',
                'give a Hugging Face folder (config.json, *.safetensors) or .pth',
            )  # fmt: skip
        named = (self.reader or _reader(arch, path))()
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
        return FrozenEncoder(named, fingerprint)


def resolve(config: ml_collections.ConfigDict) -> tuple[Architecture, EncoderFiles]:
    """(Architecture, EncoderFiles) of a config, with the encoder that is at model.encoder_path, or its standard sizes.

    Call it once for a config and hand the Architecture on: it opens the encoder's files. Raises UserError if there is
    no such encoder, or if it does not go with the rest of the config.
    """
    model = config.model
    path = model.encoder_path
    imported, reader = _open(model.encoder, path) if path else (None, None)
    arch = architecture.from_config(config, imported)
    image = arch.image_encoder
    if model.target == 'mask_token' and not (image and image.mask_token):
        raise UserError('config.model.target=mask_token', f'{path} does not have a mask token', 'take light_target')
    return arch, EncoderFiles(arch, path, reader)


def stored(config: ml_collections.ConfigDict, arch: Architecture) -> EncoderFiles:
    """The EncoderFiles of a run whose Architecture is stored with it; nothing is opened before they are read."""
    return EncoderFiles(arch, config.model.encoder_path, None)


def _open(encoder: str, path: str) -> tuple[ImageArchitecture | Architecture, Callable[[], dict[str, np.ndarray]]]:
    """(what is at a path, the function that reads its encoder's weights)."""
    if encoder != 'rvm':
        opened = image_encoders.open_encoder(path, family=encoder)
        return opened.arch, opened.read
    if path.endswith('.npz'):
        arch, named = official_rvm.read_official(path)  # its sizes are read off its arrays
        reader = functools.partial(_encoder_part, named)
    else:
        arch, reader = export_folder.read_export_architecture(_export(path)), functools.partial(_read_rvm, path)
    if arch.is_frozen:
        raise UserError(
            path, f'its own encoder is {arch.encoder}, frozen', 'name the weights that it was made with, not this model'
        )
    return arch, reader


def _reader(arch, path):
    if arch.image_encoder is None:
        return functools.partial(_read_rvm, path)
    return functools.partial(image_encoders.read_weights, path, arch.image_encoder)


def _read_rvm(path):
    if path.endswith('.npz'):
        return _encoder_part(official_rvm.read_official(path)[1])
    return _encoder_part(read_safetensors(os.path.join(_export(path), export_folder.WEIGHTS)))


def _encoder_part(named):
    return {name.removeprefix(PREFIX): array for name, array in named.items() if name.startswith(PREFIX)}


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

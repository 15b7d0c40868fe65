"""Reads released image encoders: a Hugging Face folder (config.json and safetensors), or an original `.pth`."""

import dataclasses
import hashlib
import json
import os
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from rvm_jax.conversion import (
    clip_weights,
    dinov2_weights,
    dinov3_weights,
    hugging_face,
    layouts,
    mae_weights,
    siglip2_weights,
    weight_files,
)
from rvm_jax.errors import UserError
from rvm_jax.models import param_names
from rvm_jax.models.encoders.image_architecture import INTERPOLATIONS, ImageArchitecture
from rvm_jax.models.encoders.image_vit import ImageEncoder
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.storage import files

FAMILIES = {
    'dinov3': dinov3_weights,
    'dinov2': dinov2_weights,
    'siglip2': siglip2_weights,
    'mae': mae_weights,
    'clip': clip_weights,
}
LICENSES = {family: module.LICENSE for family, module in FAMILIES.items()}  # of the weights: (name, what to know)
MODEL_TYPES = {model_type: family for family, module in FAMILIES.items() for model_type in module.DEFAULTS}
LAYOUTS = (  # in this order: a mark of a later one may be in an earlier one, too
    dinov3_weights.HUGGING_FACE,
    dinov2_weights.HUGGING_FACE,
    mae_weights.HUGGING_FACE,
    clip_weights.HUGGING_FACE,
    siglip2_weights.HUGGING_FACE,
    dinov3_weights.ORIGINAL,
    dinov2_weights.ORIGINAL,
    mae_weights.ORIGINAL,
)
ORIGINALS = (dinov3_weights.ORIGINAL, dinov2_weights.ORIGINAL, mae_weights.ORIGINAL)


def load_image_encoder(
    path: str | os.PathLike, *, interpolation: str | None = None, precision: str = 'float32'
) -> ImageEncoder:
    """The ImageEncoder in a Hugging Face folder or `.pth`.

    interpolation: how positions are resized to other grids, 'size', 'size_antialias', 'offset' or 'linear_antialias'
    (None: as where the weights come from). precision: 'float32', 'official_mixed' or 'bf16', what it computes in.
    Raises UserError, naming the file, if it is not of a known family, or if an array is missing, left over or
    misshapen.
    """
    if precision not in PRECISIONS:
        raise UserError(f'precision={precision!r}', 'is not a choice', f'take one of {", ".join(PRECISIONS)}')
    path = files.expanded(path)
    found = open_encoder(path, interpolation=interpolation)
    return param_names.from_named(_abstract(found.arch, Execution(PRECISIONS[precision])), found.read(), path)


def is_image_encoder(path: str | os.PathLike) -> bool:
    """Whether a path looks like an image encoder, of whatever family: a `.pth`, or a folder of Hugging Face."""
    if os.path.isfile(path):
        return weight_files.is_torch_file(path)
    if not os.path.isfile(os.path.join(path, hugging_face.CONFIG)):
        return False
    try:
        return hugging_face.read_json(os.path.join(path, hugging_face.CONFIG)).get('model_type', 'rvm') != 'rvm'
    except UserError:
        return False


class OpenEncoder(NamedTuple):
    """An image encoder whose files are open: what it is, and its weights, which are not read yet."""

    arch: ImageArchitecture
    weights: weight_files.Weights
    layout: layouts.Layout
    prefix: str  # of the encoder's keys

    def read(self) -> dict[str, np.ndarray]:
        """{our name: float32 array}; UserError if any is missing, left over or misshapen."""
        shapes = param_names.named_shapes(_abstract(self.arch, Execution()))
        return layouts.read_named(self.weights, self.layout, self.prefix, shapes)


def open_encoder(path: str | os.PathLike, family: str | None = None, interpolation: str | None = None) -> OpenEncoder:
    """The OpenEncoder at a path; of a folder only config.json and names of weights are read.

    Mean and deviation of the pixels are those of processor_config.json or preprocessor_config.json there (beside a
    .pth, too; `hugging_face.read_processor` says which comes first), or the family's usual ones, which weights for
    satellite images do not share.
    Raises UserError if it does not hold one, if config.json and weights belong to different encoders, or if it is of
    another family than `family`.
    """
    path = os.fspath(path)
    if weight_files.is_torch_file(path):
        found = _open_original(path)
    else:
        found = _open_folder(path)
    arch = found.arch
    if family not in (None, arch.family):
        raise UserError(path, f'holds {arch.family}, not {family}', f'name {arch.family}, or give a {family} encoder')
    if interpolation is None:
        return found
    if not arch.position_grid or interpolation not in INTERPOLATIONS:
        choices = f'take one of {", ".join(INTERPOLATIONS)}' if arch.position_grid else 'leave it out'
        raise UserError(f'interpolation={interpolation!r}', f'{arch.family} does not offer it', choices)
    return found._replace(arch=dataclasses.replace(arch, interpolation=interpolation))


def read_architecture(
    path: str | os.PathLike, family: str | None = None, interpolation: str | None = None
) -> ImageArchitecture:
    """The ImageArchitecture of the encoder at a path, as of `open_encoder`."""
    return open_encoder(path, family, interpolation).arch


def read_weights(path: str | os.PathLike, arch: ImageArchitecture) -> dict[str, np.ndarray]:
    """{our name: float32 array} of the encoder at a path, just those of an ImageEncoder of this architecture.

    Raises UserError if any is missing, left over or misshapen.
    """
    weights = weight_files.open_weights(path)
    layout, prefix = _layout(weights)
    if layout.family != arch.family:
        raise UserError(path, f'the weights are those of {layout.family}, not {arch.family}', 'give the right file')
    return OpenEncoder(arch, weights, layout, prefix).read()


def fingerprint(facts: Any, named: dict[str, np.ndarray]) -> str:
    """16 hex digits that tell encoders apart: by facts, plain values or a dataclass, and by all weights."""
    if isinstance(facts, ImageArchitecture):
        facts = dataclasses.asdict(facts)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(named):
        array = named[name]
        digest.update(f'{name} {array.shape} {array.dtype}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _abstract(arch, execution):
    return nnx.eval_shape(lambda: ImageEncoder(arch, execution=execution, rngs=nnx.Rngs(0)))


def _open_folder(path):
    if not os.path.isfile(os.path.join(path, hugging_face.CONFIG)):
        if files.is_remote(path):
            raise UserError(path, 'is in a bucket', 'copy it to this machine')
        found = f'it does not have a {hugging_face.CONFIG}' if os.path.isdir(path) else (
            'it is a file' if os.path.exists(path) else 'there is nothing')  # fmt: skip
        fix = 'give a Hugging Face folder (the one with config.json and *.safetensors), or an original .pth'
        raise UserError(path, f'not an image encoder: {found}', fix)
    model_type, values = hugging_face.read_config(path)
    if model_type not in MODEL_TYPES:
        raise UserError(path, f'model_type={model_type!r} is not known', f'take one of {", ".join(MODEL_TYPES)}')
    module = FAMILIES[MODEL_TYPES[model_type]]
    arch = module.from_config(model_type, hugging_face.Config(path, values, module.DEFAULTS[model_type]))
    weights = weight_files.open_weights(path)
    layout, prefix = _layout(weights)
    if layout.family != arch.family:
        raise UserError(
            path, f'mixed up: config.json says {model_type}, the weights are those of {layout.family}',
            'download both from one place',
        )  # fmt: skip
    return _opened(arch, weights, layout, prefix, path)


def _open_original(path):
    weights = weight_files.open_weights(path)
    layout, prefix = _layout(weights)
    if layout not in ORIGINALS:
        raise UserError(path, 'has the names of Hugging Face', 'give the folder with its config.json')
    arch = FAMILIES[layout.family].from_original(weights, prefix)
    return _opened(arch, weights, layout, prefix, os.path.dirname(path))


def _opened(arch, weights, layout, prefix, folder):
    """The OpenEncoder, with what only the names of its weights and the preprocessor's file in folder tell."""
    has_mask_token = _has_mask_token(weights, layout, prefix)
    arch = dataclasses.replace(arch, mask_token=has_mask_token, **hugging_face.normalization(folder))
    return OpenEncoder(arch, weights, layout, prefix)


def _layout(weights):
    layout, prefix = layouts.identify(LAYOUTS, weights.shapes)
    if layout is None:
        some = ', '.join(sorted(weights.shapes)[:4]) or 'nothing'
        raise UserError(
            weights.path,
            f'weights of an unknown encoder: {some} ...',
            'docs/frozen.md has the families that can be read',
        )
    return layout, prefix


def _has_mask_token(weights, layout, prefix):
    keys = [key for key, name in layout.table if name == 'mask_token']
    return any(prefix + key in weights.shapes for key in keys)

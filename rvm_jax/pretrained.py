"""Opens any model path, and writes models in the forms that others read: export folders and released RVM files."""

import contextlib
import dataclasses
import json
import os
from typing import Any

from ml_collections import ConfigDict

from rvm_jax import plugins
from rvm_jax.conversion import frozen, image_encoders, official_rvm
from rvm_jax.conversion.export_folder import (
    CONFIG,
    WEIGHTS,
    architecture_from,
    is_export,
    read_export,
    read_export_architecture,
)
from rvm_jax.conversion.export_folder import read_json as _read_json
from rvm_jax.conversion.safetensors import safetensors_bytes
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, layers, param_names
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.rvm import RVM
from rvm_jax.storage import files
from rvm_jax.storage.atomic import atomic_write, cannot_replace

CARD, PREPROCESSOR = 'README.md', 'preprocessor_config.json'


def load(path: str | os.PathLike, *, step: int | None = None, precision: str = 'float32') -> RVM:
    """The model at any model path: export folder, workdir (its newest step, or `step`), released RVM .npz, or a
    supported image encoder (Hugging Face folder, or .pth), whose tokens are then the features.

    precision: 'float32', 'official_mixed' or 'bf16', what it computes in. Raises UserError if there is no model, if
    an array is missing, left over or of another shape, or if its core is a plug-in that is not imported (plugins.py).
    """
    path = files.expanded(path)
    kind = model_kind(path)
    if step is not None and kind != 'workdir':
        raise UserError(f'--step {step}', f'{path} holds one model', 'leave the step out')
    if precision not in layers.PRECISIONS:
        raise UserError(f'precision={precision!r}', 'is not a choice', f'take one of {", ".join(layers.PRECISIONS)}')
    readers = {'official': _read_official, 'export': _read_export, 'workdir': _read_workdir, 'image': _read_image}
    arch, arrays = readers[kind](path, step)
    model = build.abstract(arch, layers.Execution(layers.PRECISIONS[precision]))
    return param_names.from_named(model, arrays, path)


def model_kind(path: str | os.PathLike) -> str:
    """'official', 'export', 'workdir' or 'image'; raises UserError for anything else, saying what was found."""
    path = files.expanded(path)
    if image_encoders.is_image_encoder(path):
        return 'image'
    if os.path.isfile(path) and path.endswith('.npz'):
        return 'official'
    names = files.names(path)
    if CONFIG in names and WEIGHTS in names:
        return 'export'
    if CONFIG in names and 'checkpoints' in names:
        return 'workdir'
    found = 'there is nothing' if not files.exists(path) else f'it holds {", ".join(sorted(names)[:5]) or "no model"}'
    fix = 'name an export folder, a workdir, a released RVM .npz, or an image encoder'
    raise UserError(path, f'not a model: {found}', fix)


def read_architecture(path: str | os.PathLike) -> Architecture:
    """The Architecture at any model path, without its weights where that is possible; UserError as in `load`."""
    path = files.expanded(path)
    kind = model_kind(path)
    if kind == 'official':
        return official_rvm.read_official(path)[0]
    if kind == 'export':
        return read_export_architecture(path)
    if kind == 'image':
        return architecture.image_only(image_encoders.read_architecture(path))
    return _resolve_run(path)[0]


def save_pretrained(model: RVM, folder: str | os.PathLike, *, facts: dict[str, str] | None = None) -> None:
    """Write an export folder: config.json, model.safetensors, README.md, preprocessor_config.json.

    Encoder, core and decoder are separate prefixes of the arrays' names. facts: {what: text} about the training, for
    the model card. The folder appears complete or not at all; an older export there is replaced, anything else is
    refused with UserError.
    """
    from rvm_jax.conversion.model_card import model_card, preprocessor

    folder = files.expanded(folder)
    check_folder(folder)
    config = {'model_type': 'rvm', 'library_name': 'rvm_jax', 'architecture': dataclasses.asdict(model.architecture)}
    contents = {
        CONFIG: _json_bytes(config),
        WEIGHTS: safetensors_bytes(param_names.to_named(model)),
        PREPROCESSOR: _json_bytes(preprocessor(model)),
        CARD: model_card(model, facts or {}).encode(),
    }
    with atomic_write(folder) as partial:
        os.mkdir(partial)
        for name, data in contents.items():
            with open(os.path.join(partial, name), 'wb') as file:
                file.write(data)


def check_folder(folder: str) -> None:
    """Raise UserError unless an export can be written there: nothing, an empty folder, or an older export is there.

    What is there is deleted, so nothing else may be.
    """
    if not os.path.exists(folder):
        return
    if not os.path.isdir(folder):
        raise UserError(folder, 'exists and is not a folder', 'choose another --output')
    if reason := cannot_replace(folder):
        raise UserError(folder, f'{reason}, so it cannot be replaced', 'name a new folder in it as --output')
    found = set(os.listdir(folder))
    if found and (found - EXPORTED or not is_export(folder)):
        raise UserError(folder, 'exists and is not an export folder', 'choose another --output')


def save_official(model: RVM, path: str | os.PathLike) -> None:
    """Write the released RVM layout as one .npz; it reads back bit for bit. The file appears complete or not at all."""
    arrays = official_rvm.to_official(model)
    with atomic_write(files.expanded(path)) as partial, open(partial, 'wb') as file:
        official_rvm.write_npz(file, arrays)


EXPORTED = {CONFIG, WEIGHTS, CARD, PREPROCESSOR}


def read_run(workdir: str | os.PathLike) -> dict[str, Any]:
    """The config.json of a workdir: {'config': ..., 'version': ..., 'command': ...}."""
    return _read_json(os.path.join(workdir, CONFIG))


def _read_official(path, _):
    return official_rvm.read_official(path)


def _read_export(path, _):
    return read_export(path)


def _read_image(path, _):
    found = image_encoders.open_encoder(path)
    return architecture.image_only(found.arch), {
        f'{frozen.PREFIX}{name}': array for name, array in found.read().items()
    }


def _resolve_run(path):
    """(Architecture, frozen.EncoderFiles or None where the workdir stores its Architecture) of a workdir."""
    run, origin = read_run(path), os.path.join(path, CONFIG)
    if 'architecture' in run:
        return architecture_from(run['architecture'], origin), None
    config = config_of(run, origin)
    if plugins.is_name(config.model.core):
        plugins.find(config.model.core, plugins.CORE, origin)
    with _naming(origin):
        arch, encoder_files = frozen.resolve(config)
    # The config is anybody's, and so are its sizes.
    return architecture_from(dataclasses.asdict(arch), origin), encoder_files


def config_of(run: dict[str, Any], origin: str) -> ConfigDict:
    """The ConfigDict of a workdir's config.json."""
    from rvm_jax import config

    return config.from_dict(run.get('config'), origin)


def _read_workdir(path, step):
    from rvm_jax.training.checkpoint import read_step

    arch, encoder_files = _resolve_run(path)
    step, arrays, position = read_step(path, step, lambda tree: _check_shapes(arch, tree, path))
    origin = os.path.join(path, CONFIG)
    encoder_files = encoder_files or frozen.stored(config_of(read_run(path), origin), arch)
    with _naming(origin):
        encoder, fingerprint = encoder_files.read()
    if position.get('encoder', '') != fingerprint:
        raise UserError(
            path, f'was trained on another encoder than its {CONFIG} names now', 'correct model.encoder_path there'
        )
    return arch, param_names.tree_named(arrays) | encoder


@contextlib.contextmanager
def _naming(origin):
    """Say of a frozen encoder that cannot be used where its path is from."""
    try:
        yield
    except UserError as error:
        if origin in str(error):
            raise
        raise UserError(
            error.value,
            f'{error.reason}, and {origin} names it as the frozen encoder',
            'correct model.encoder_path there',
        ) from error


def _check_shapes(arch, tree, origin):
    """Raise UserError unless a tree holds all that is trained of a model, and nothing else."""
    expected = param_names.named_shapes(build.abstract(arch))
    if arch.is_frozen:
        expected = {name: shape for name, shape in expected.items() if not name.startswith(frozen.PREFIX)}
    param_names.compare(expected, param_names.tree_shapes(tree), origin)


def _json_bytes(values):
    return (json.dumps(values, indent=2) + '\n').encode()

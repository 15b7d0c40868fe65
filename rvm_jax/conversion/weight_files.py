"""Opens the weights of an image encoder: safetensors in a folder, whole or in shards, or a `.pth` of PyTorch."""

import dataclasses
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from rvm_jax.conversion.export_folder import read_json
from rvm_jax.conversion.npz import open_zip
from rvm_jax.conversion.safetensors import read_header, read_tensors
from rvm_jax.errors import UserError
from rvm_jax.storage import files

WHOLE, INDEX, PICKLED = 'model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin'
WRAPPERS = ('model', 'teacher', 'state_dict')  # keys under which training scripts put the weights
# What torch.load makes of a file that is damaged, or no file of PyTorch.
TORCH_ERRORS = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, AssertionError, UnicodeDecodeError, struct.error, zipfile.BadZipFile, MemoryError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that can be read: {key: shape} of all, and a function from keys to {key: float32 array}."""

    path: str
    shapes: dict
    read: Callable


def is_torch_file(path: str | os.PathLike) -> bool:
    """Whether a path is named like a file of PyTorch."""
    return os.fspath(path).endswith(('.pth', '.pt'))


def open_weights(path: str | os.PathLike) -> Weights:
    """The Weights at a folder or file; UserError, naming the file and the reason, if they cannot be read."""
    path = os.fspath(path)
    if files.is_remote(path):
        raise UserError(path, 'image encoders are read from a disk', 'copy it to this machine')
    if is_torch_file(path):
        return _open_torch(path)
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if os.path.exists(os.path.join(folder, WHOLE)):
        return _open_safetensors(folder, [WHOLE])
    if os.path.exists(os.path.join(folder, INDEX)):
        return _open_safetensors(folder, _shards(os.path.join(folder, INDEX)))
    if os.path.exists(os.path.join(folder, PICKLED)):
        raise UserError(
            path, f'has only {PICKLED}, a pickle', f'download {WHOLE} too, or write it with save_pretrained'
        )
    raise UserError(path, f'does not have {WHOLE}', 'download the whole folder')


def _open_safetensors(folder, file_names):
    headers = {file: read_header(os.path.join(folder, file)) for file in file_names}
    homes = {key: file for file, header in headers.items() for key in header}

    def read(keys):
        wanted = {file: [key for key in keys if homes[key] == file] for file in file_names}
        return {
            k: v for file, part in wanted.items() for k, v in read_tensors(os.path.join(folder, file), part).items()
        }

    return Weights(folder, {key: headers[file][key] for key, file in homes.items()}, read)


def _shards(index):
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(index, 'lacks the weight_map', 'download it again')
    file_names = sorted(set(weight_map.values()))
    for file in file_names:
        if os.path.basename(file) != file or not file.endswith('.safetensors'):
            raise UserError(index, f'names {file!r}, not a safetensors file beside it', 'download it again')
        if not os.path.exists(os.path.join(os.path.dirname(index), file)):
            raise UserError(index, f'names {file}, which is not there', 'download the whole folder')
    return file_names


def _open_torch(path):
    if not os.path.isfile(path):
        raise UserError(path, 'does not exist', 'check the path')
    _look_through(path)
    try:
        import torch
    except ImportError as error:
        raise UserError(path, 'PyTorch reads such a file', "pip install 'rvm_jax[torch]'") from error
    try:
        found = torch.load(path, map_location='cpu', weights_only=True)  # nothing in the file is run
    except pickle.UnpicklingError as error:  # its text tells how to run what is in the file: better not
        raise UserError(
            path, 'damaged, or holds more than weights', 'download it from where it was released'
        ) from error
    except TORCH_ERRORS as error:
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise UserError(path, f'not a readable file of PyTorch ({reason})', 'download it again') from error
    tensors = state_dict(found, path, is_array=lambda value: isinstance(value, torch.Tensor))

    def read(keys):
        return {key: _as_array(tensors[key], f'{path}: {key}') for key in keys}

    return Weights(path, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, read)


def _look_through(path):
    """Raise UserError for a zip of which torch would take more memory than weights of its size do."""
    with open(path, 'rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'  # as torch itself tells
    if is_zip:
        with open_zip(path):
            return


def _as_array(tensor, origin):
    try:
        if tensor.nbytes > tensor.untyped_storage().nbytes():  # one number may claim to be a large array
            raise UserError(origin, f'its shape {tuple(tensor.shape)} is more than is stored', 'download it again')
        return tensor.detach().float().numpy()
    except (TypeError, RuntimeError) as error:
        raise UserError(origin, f'is not a plain array ({error})', 'save it as one') from error


def state_dict(found: Any, path: str, is_array: Callable[[Any], bool]) -> dict[str, Any]:
    """{key: array} in what a .pth holds, out of what training scripts wrap around it; UserError if it holds none."""
    for _ in WRAPPERS:  # a dict may be within itself
        if not isinstance(found, dict) or any(is_array(value) for value in found.values()):
            break
        wrapper = next((name for name in WRAPPERS if isinstance(found.get(name), dict)), None)
        if wrapper is None:
            break
        found = found[wrapper]
    if not isinstance(found, dict) or not any(is_array(value) for value in found.values()):
        raise UserError(path, 'holds no dict of weights', f'it may lie under one of {", ".join(WRAPPERS)}')
    other = [key if isinstance(key, str) else type(key).__name__ for key, value in found.items()
             if not (isinstance(key, str) and is_array(value))]  # fmt: skip
    if other:
        raise UserError(path, f'{", ".join(other[:4])} are not arrays', 'save the state dict alone')
    return found

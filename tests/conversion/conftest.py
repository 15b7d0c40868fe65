"""Small image encoders whose golden values were made with PyTorch; their weights follow a formula."""

import dataclasses
import json
import math
import pathlib
import sys
import types
import zlib

import numpy as np
import pytest
import safetensors.numpy

DATA = pathlib.Path(__file__).parents[1] / 'data'


def noise(name, shape):
    """Pseudo-random numbers in [-1, 1) from integers alone, so that they are the same everywhere."""
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x / 2.0**31 - 1).astype(np.float32).reshape(shape)


def weight(key, shape):
    """Around 1 for scales, else around 0, kernels by their inputs."""
    values = noise(key, shape)
    if key.endswith(('gamma', 'lambda1')) or ('norm' in key and key.endswith('weight')):
        return 1 + 0.3 * values
    if len(shape) < 2:
        return np.asarray(0.3 * values)
    if 'token' in key or 'pos' in key:
        return 0.7 * values
    return values * np.float32(2 / math.prod(shape[1:]) ** 0.5)


@dataclasses.dataclass
class Golden:
    """One encoder: its config.json ({} for an original checkpoint), weights by key, pixels, and what PyTorch gave."""

    config: dict
    arrays: dict
    pixels: np.ndarray
    expected: dict

    def write(self, path, *, config=None, arrays=None):
        """The encoder as a Hugging Face folder; returns its path as text."""
        path.mkdir(exist_ok=True)
        (path / 'config.json').write_text(json.dumps(self.config if config is None else config))
        safetensors.numpy.save_file(self.arrays if arrays is None else arrays, path / 'model.safetensors')
        return str(path)


@pytest.fixture(scope='session')
def golden():
    """golden('dinov3/mlp') -> Golden; see tests/data/README.md for the names."""

    def read(name):
        family, _, case = name.partition('/')
        with np.load(DATA / f'image_{family}.npz', allow_pickle=False) as file:
            found = {key.removeprefix(f'{case}/'): file[key] for key in file if key.startswith(f'{case}/')}
        facts = json.loads(str(found.pop('facts')))
        arrays = {key: weight(key, shape) for key, shape in facts['shapes'].items()}
        for key in [key for key in found if key.startswith('given/')]:
            arrays[key.removeprefix('given/')] = found.pop(key)
        if facts['first_row_zero']:
            arrays[facts['first_row_zero']][:, 0] = 0
        pixels = 1.5 * noise('pixels', (1, *facts['size'], 3))
        return Golden(facts['config'], arrays, pixels, found)

    return read


class StandInTensor:
    """As much of a torch.Tensor as is used."""

    def __init__(self, array):
        self.array, self.shape, self.nbytes = array, array.shape, array.nbytes

    def untyped_storage(self):
        base = self.array if self.array.base is None else self.array.base
        return types.SimpleNamespace(nbytes=lambda: base.nbytes)

    def detach(self):
        return self

    def float(self):
        return StandInTensor(self.array.astype(np.float32))

    def numpy(self):
        return self.array


@pytest.fixture
def torch_file(monkeypatch, tmp_path):
    """torch_file(contents) -> path of a .pth that a stand-in for torch.load reads as contents, arrays as tensors."""
    held = {}

    def load(path, *, map_location, weights_only):
        assert weights_only and map_location == 'cpu'  # else torch would run what is in the file
        return held[str(path)]

    def write(contents):
        path = tmp_path / f'{len(held)}.pth'
        path.write_bytes(b'read by the stand-in')
        held[str(path)] = as_tensors(contents)
        return str(path)

    def as_tensors(value):
        if isinstance(value, dict):
            return {key: as_tensors(item) for key, item in value.items()}
        return StandInTensor(value) if isinstance(value, np.ndarray) else value

    monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(load=load, Tensor=StandInTensor))
    return write

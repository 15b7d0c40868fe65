"""A stand-in for torch.load, which the tests do without; torch_cores.py is imported from this folder."""

import pathlib
import sys
import types

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


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

import numpy as np
import pytest

from rvm_jax.conversion.npz import read_npz

ARRAYS = {'a/b': np.arange(12, dtype=np.float32).reshape(3, 4), 'c': np.float32([1, 2])}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were_written(tmp_path, save):
    save(tmp_path / 'x.npz', **ARRAYS)
    found = read_npz(tmp_path / 'x.npz')
    assert found.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array, strict=True)

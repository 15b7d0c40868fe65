import numpy as np
import pytest
from scipy.io import savemat

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.matlab import read_mat


@pytest.mark.parametrize('do_compression', [False, True])
def test_arrays_texts_and_structs_are_those_that_were_written(tmp_path, do_compression):
    arrays = {
        'whole': np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        'real': np.linspace(0, 1, 10).reshape(5, 2),
        'one': np.array([[7]], np.uint8),
        'many': np.arange(3, dtype=np.float32)[None],
    }
    table = np.zeros((2, 1), [('number', object), ('a_name_of_length', object)])
    table[0, 0], table[1, 0] = (3.0, 'n01'), (4, 'ä and more characters')
    path = tmp_path / 'a.mat'
    savemat(path, {**arrays, 'text': 'hello', 'empty': '', 'table': table}, do_compression=do_compression)
    for name, values in arrays.items():
        found = read_mat(path, name)
        np.testing.assert_array_equal(found, values)
    assert read_mat(path, 'text') == 'hello' and read_mat(path, 'empty') == ''
    rows = read_mat(path, 'table')
    assert [row['number'].item() for row in rows] == [3, 4]
    assert [row['a_name_of_length'] for row in rows] == ['n01', 'ä and more characters']
    with pytest.raises(DataError, match=r'a\.mat: does not have a readable other'):
        read_mat(path, 'other')


def test_a_file_of_another_version_is_named(tmp_path):
    savemat(tmp_path / 'old.mat', {'a': np.zeros(3)}, format='4')
    with pytest.raises(DataError, match=r'old\.mat: does not have a readable a .*not a MATLAB file of version 5 to 7'):
        read_mat(tmp_path / 'old.mat', 'a')

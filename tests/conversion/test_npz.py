import io
import struct
import zipfile

import numpy as np
import pytest

from rvm_jax.conversion.npz import read_npz
from rvm_jax.errors import UserError

ARRAYS = {'a/b': np.arange(12, dtype=np.float32).reshape(3, 4), 'c': np.float32([1, 2])}


def header(text):
    """A .npy header of version 1.0 with any text."""
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text) + 1) + text.encode() + b'\n'


def described(shape, dtype='<f4'):
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


def write_member(path, data, **changes):
    """A zip with one member; changes are made to its entry in the directory afterwards."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.npy', data)
        for name, value in changes.items():
            setattr(archive.filelist[0], name, value)
    return path


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were_written(tmp_path, save):
    save(tmp_path / 'x.npz', **ARRAYS)
    found = read_npz(tmp_path / 'x.npz')
    assert found.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array, strict=True)


def test_pickles_are_refused_unread(tmp_path):
    class Boom:
        def __reduce__(self):
            return exec, ('raise SystemExit("unpickled")',)

    np.savez(tmp_path / 'x.npz', a=np.array([Boom()], dtype=object))
    with pytest.raises(UserError, match='holds object, not float32'):
        read_npz(tmp_path / 'x.npz')


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (described('(1000000000,)') + b'1234', 'declares 4,000,000,000 bytes, holds'),
        (described('(4,)') + b'1234', 'ends early'),
        (described('(-1,)') + b'1234', 'declares the shape'),
        (described((1,) * 70) + b'1234', 'declares the shape'),
        (described('(1,)', dtype='<f8') + b'12345678', 'float64, not float32'),
        (header('[' * 150 + ']' * 150), 'is not a plain array'),
        (header('-' * 9000 + '1'), 'is not a plain array'),
        (b'not an array', 'is not a plain array'),
        (b'', 'is not a plain array'),
    ],
)
def test_members_that_are_not_what_they_say_are_refused(tmp_path, data, reason):
    with pytest.raises(UserError, match=reason):
        read_npz(write_member(tmp_path / 'x.npz', data))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'file_size': 2**31}, '1 arrays of 2,147,483,648 bytes in a file of'),
        ({'file_size': 2**31, 'compress_size': 2**31}, 'declares 2,147,483,520 bytes|not a readable .npz'),
        ({'flag_bits': 1}, 'encrypted'),
        ({'compress_type': zipfile.ZIP_LZMA}, 'packed in an unusual way'),
    ],
)
def test_a_small_file_that_declares_much_is_refused_before_it_is_read(tmp_path, changes, reason):
    data = described('(536870880,)') + b'1234'
    with pytest.raises(UserError, match=reason):
        read_npz(write_member(tmp_path / 'x.npz', data, **changes))


def test_damaged_files_are_refused_wherever_the_damage_is(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.random.default_rng(0).random((8, 8), np.float32))
    whole, path = buffer.getvalue(), tmp_path / 'x.npz'
    outcomes = set()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_npz(path)
        except UserError as error:
            outcomes.add(error.value)
    assert outcomes == {path}
    path.write_bytes(whole[:-30])
    with pytest.raises(UserError, match='not a readable'):
        read_npz(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match='not a readable'):
        read_npz(tmp_path)

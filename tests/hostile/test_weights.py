"""Files of weights that somebody made to do harm are refused in one line, at once, and nothing in them is run."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest


def read(path):
    """Load whatever model is at a path; `rvm info` may not fare worse."""
    import guard

    from rvm_jax import pretrained
    from rvm_jax.errors import UserError

    try:
        pretrained.load(path)
    except UserError:
        guard.refused_or_used(guard.command, ['info', path])
        raise
    guard.command(['info', path])


class Harm:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('harm_was_done',)


def npy(array_shape, data=b'', dtype='<f4'):
    """A .npy file with any header."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {array_shape}, }}\n".encode()
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text + data


def zipped(members, compression=zipfile.ZIP_STORED):
    """The bytes of a zip of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def overlapping(data, count):
    """A zip whose directory names one member many times."""
    whole = zipped([('a.npy', npy((len(data) // 4,), data))])
    start = whole.index(b'PK\x01\x02')
    entry, end = whole[start : whole.index(b'PK\x05\x06')], whole[whole.index(b'PK\x05\x06') :]
    end = end[:8] + struct.pack('<HHLL', count, count, count * len(entry), start) + end[20:]
    return whole[:start] + count * entry + end


def pickled_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def many(count):
    return [(f'encoder/layers_{index}/x.npy', npy((), b'1234')) for index in range(count)]


# What an .npz holds -> words of the reason.
NPZ = {
    'empty': (b'', 'not a readable .npz'),
    'text': (b'<html>404</html>', 'not a readable .npz'),
    'npy': (npy((1,), b'1234'), 'not a readable .npz'),
    'pickle': (pickle.dumps(Harm()), 'not a readable .npz'),
    'pickle_inside': (lambda: zipped([('cls_token.npy', pickled_array())]), 'holds object, not float32'),
    'climbing_names': (lambda: zipped([('../../../tmp/x.npy', npy((1,), b'1234'))]), 'not a released RVM file'),
    'names_of_control_letters': (lambda: zipped([('\x1b[2J\n\x07.npy', npy((1,), b'1234'))]), 'not a released RVM'),
    'long_names': (lambda: zipped([('a' * 60_000, npy((1,), b'1234'))]), 'not a released RVM file'),
    'two_gigabytes_of_zeros': (
        lambda: zipped([('a.npy', npy((2**26,), bytes(2**28)))] * 1, zipfile.ZIP_DEFLATED), 'bytes in a file of'),
    'terabytes_in_a_header': (lambda: zipped([('a.npy', npy((10**12,), b'1234'))]), 'declares 4,000,000,000,000'),
    'a_million_arrays': (lambda: zipped_many(1_000_000), 'not a readable .npz'),
    'many_arrays': (lambda: zipped(many(20_001)), '20001 arrays'),
    'one_member_a_thousand_times': (lambda: overlapping(bytes(2**20), 5_000), 'bytes in a file of'),
    'deep_header': (lambda: zipped([('a.npy', npy('(' * 3000 + ')' * 3000))]), 'is not a plain array'),
    'long_header': (lambda: zipped([('a.npy', npy(f'({"1," * 20_000})'))]), 'is not a plain array'),
    'code_in_a_header': (
        lambda: zipped([('a.npy', npy("__import__('os').mkdir('harm_was_done')"))]), 'is not a plain array'),
    'objects_in_a_header': (lambda: zipped([('a.npy', npy((1,), b'12345678', '|O'))]), 'holds object'),
    'negative_shape': (lambda: zipped([('a.npy', npy((-4, -4), b'1234' * 16))]), 'declares the shape'),
    'no_shape': (lambda: zipped([('a.npy', npy(('a', None)))]), 'is not a plain array'),
    'kernel_of_zero': (lambda: zipped([(f'{KERNEL}.npy', npy((1, 0, 0, 3, 0)))]), 'sizes cannot be read'),
}  # fmt: skip
KERNEL = 'tokenizer/patch_embedding/Conv_0/kernel'


def zipped_many(count):
    """A zip with a directory of `count` empty members, without the time that zipfile would take for it."""
    entry = struct.pack('<4s4B4HL2L5H2L', b'PK\x01\x02', 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    entries = b''.join(entry + b'%08d' % index for index in range(count))
    locator = struct.pack('<4sQ2H2L4Q', b'PK\x06\x06', 44, 45, 45, 0, 0, count, count, len(entries), 0)
    locator += struct.pack('<4sLQL', b'PK\x06\x07', 0, len(entries), 1)
    return entries + locator + struct.pack('<4s4H2LH', b'PK\x05\x06', 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)


def safetensors(header, data=b''):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def tensor(shape, start, stop, dtype='F32'):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [start, stop]}


# What a model.safetensors holds.
UNREADABLE = 'not a readable safetensors file'
SAFETENSORS = {
    'empty': (b'', UNREADABLE),
    'pickle': (pickle.dumps(Harm()), UNREADABLE),
    'header_longer_than_the_file': (struct.pack('<Q', 2**62) + b'{}', UNREADABLE),
    'header_of_90_megabytes': (lambda: safetensors(b'{"a":"' + b'x' * 90_000_000 + b'"}'), 'header'),
    'deep_header': (lambda: safetensors(b'{"a":' * 100_000), UNREADABLE),
    'no_object': (safetensors(b'[]'), UNREADABLE),
    'no_utf8': (safetensors(b'{"\xff": 1}'), UNREADABLE),
    'overlapping': (safetensors({'a': tensor([2], 0, 8), 'b': tensor([2], 4, 12)}, bytes(12)), UNREADABLE),
    'hole': (safetensors({'a': tensor([1], 0, 4), 'b': tensor([1], 8, 12)}, bytes(12)), UNREADABLE),
    'backwards': (safetensors({'a': tensor([1], 4, 0)}, bytes(4)), UNREADABLE),
    'beyond_the_end': (safetensors({'a': tensor([2**40], 0, 2**42)}, bytes(4)), UNREADABLE),
    'more_than_a_number_can_hold': (safetensors({'a': tensor([2**62, 2**62], 0, 4)}, bytes(4)), UNREADABLE),
    'negative_shape': (safetensors({'a': tensor([-1], 0, 4)}, bytes(4)), UNREADABLE),
    'eight_bits': (safetensors({'a': tensor([1], 0, 1, 'F8_E4M3')}, bytes(1)), 'a'),
    'four_bits': (safetensors({'a': tensor([2], 0, 1, 'F4')}, bytes(1)), 'a'),
    'names_of_control_letters': (safetensors({'\x1b[2J\n\x07' * 4: tensor([1], 0, 4)}, bytes(4)), 'x1b'),
    'names_of_half_letters': (safetensors(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), ''),
    'climbing_names': (safetensors({'../../x': tensor([1], 0, 4)}, bytes(4)), ''),
    'a_million_arrays': (
        lambda: safetensors({f'a{i}': tensor([1], 4 * i, 4 * i + 4) for i in range(1_000_000)}, bytes(4_000_000)), ''),
    'many_arrays': (lambda: safetensors({f'a{i}': tensor([], 4 * i, 4 * i + 4) for i in range(50_000)}, bytes(200_000)), ''),
}  # fmt: skip


def contents(value):
    return value() if callable(value) else value


@pytest.fixture(scope='module')
def outcomes(guard, models, tmp_path_factory):
    """{case: Outcome} of all files below, read one after another in one process."""
    top = tmp_path_factory.mktemp('hostile_weights')
    paths = {}
    for name, (value, _) in NPZ.items():
        paths[f'npz {name}'] = top / f'npz_{name}.npz'
        paths[f'npz {name}'].write_bytes(contents(value))
    for base in ('export', 'dinov2'):
        for name, (value, _) in SAFETENSORS.items():
            path = paths[f'{base} {name}'] = top / f'{base}_{name}'
            path.mkdir()
            shutil.copy(models[base] / 'config.json', path)
            (path / 'model.safetensors').write_bytes(contents(value))
    found = guard.run(read, paths.values(), first=models.values())
    for path in paths.values():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return dict(zip(paths, found, strict=True))


@pytest.mark.parametrize('name', NPZ)
def test_hostile_npz_are_refused(outcomes, name):
    outcome = outcomes[f'npz {name}']
    assert not outcome.fault
    assert outcome.kind == 'refused' and NPZ[name][1] in outcome.text


@pytest.mark.parametrize('base', ['export', 'dinov2'])
@pytest.mark.parametrize('name', SAFETENSORS)
def test_hostile_safetensors_are_refused(outcomes, base, name):
    outcome = outcomes[f'{base} {name}']
    assert not outcome.fault
    assert outcome.kind == 'refused' and SAFETENSORS[name][1] in outcome.text

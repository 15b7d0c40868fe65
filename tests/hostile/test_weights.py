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
    import guard

    assert guard.open_model(path)


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


def patched(data, **changes):
    """A zip of one member whose entry in the directory says something else of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('a.npy', data)
        for name, value in changes.items():
            setattr(archive.filelist[0], name, value)
    return buffer.getvalue()


KERNEL = 'tokenizer/patch_embedding/Conv_0/kernel'
# What an .npz holds -> words of the reason.
NPZ = {
    'empty': (b'', 'not a readable .npz'),
    'text': (b'<html>404</html>', 'not a readable .npz'),
    'npy': (npy((1,), b'1234'), 'not a readable .npz'),
    'pickle': (pickle.dumps(Harm()), 'not a readable .npz'),
    'pickle_inside': (lambda: zipped([('cls_token.npy', pickled_array())]), 'holds object, not float32'),
    'climbing_names': (lambda: zipped([('../../../tmp/x.npy', npy((1,), b'1234'))]), 'not a released RVM file'),
    'names_of_control_characters': (lambda: zipped([('\x1b[2J\n\x07.npy', npy((1,), b'1234'))]), 'not a released RVM'),
    'names_of_no_text': (
        lambda: zipped([('é.npy', npy((1,), b'1234'))]).replace('é'.encode(), b'\xff\xff'), 'not a readable .npz'),
    'long_names': (lambda: zipped([('a' * 60_000, npy((1,), b'1234'))]), 'not a released RVM file'),
    'zeros_packed_a_thousandfold': (
        lambda: zipped([('a.npy', npy((2**24,), bytes(2**26)))] * 1, zipfile.ZIP_DEFLATED), 'bytes in a file of'),
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
    'too_many_axes': (lambda: zipped([('a.npy', npy((1,) * 70, b'1234'))]), 'declares the shape'),
    'ends_early': (lambda: zipped([('a.npy', npy((4,), b'1234'))]), 'ends early'),
    'no_array': (lambda: zipped([('a.npy', b'not an array')]), 'is not a plain array'),
    'empty_member': (lambda: zipped([('a.npy', b'')]), 'is not a plain array'),
    'of_64_bits': (lambda: zipped([('a.npy', npy((1,), b'12345678', '<f8'))]), 'float64, not float32'),
    'minus_signs': (lambda: zipped([('a.npy', npy('-' * 9000 + '1'))]), 'is not a plain array'),
    'larger_than_it_is': (lambda: patched(npy((9,), b'1234'), file_size=2**31), 'bytes in a file of'),
    'larger_than_the_file': (
        lambda: patched(npy((9,), b'1234'), file_size=2**31, compress_size=2**31), 'bytes in a file of'),
    'encrypted': (lambda: patched(npy((1,), b'1234'), flag_bits=1), 'encrypted'),
    'packed_otherwise': (lambda: patched(npy((1,), b'1234'), compress_type=zipfile.ZIP_LZMA), 'in an unusual way'),
    'kernel_of_zero': (lambda: zipped([(f'{KERNEL}.npy', npy((1, 0, 0, 3, 0)))]), 'sizes cannot be read'),
}  # fmt: skip


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


def million_tensors():
    entries = (b'"%d":{"dtype":"F32","shape":[],"data_offsets":[%d,%d]}' % (i, 4 * i, 4 * i + 4) for i in range(10**6))
    return safetensors(b'{' + b','.join(entries) + b'}', bytes(4 * 10**6))


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
    'names_of_control_characters': (safetensors({'\x1b[2J\n\x07' * 4: tensor([1], 0, 4)}, bytes(4)), 'x1b'),
    'names_of_half_characters': (
        safetensors(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), ''),
    'climbing_names': (safetensors({'../../x': tensor([1], 0, 4)}, bytes(4)), ''),
    'a_million_arrays': (lambda: million_tensors(), 'a header of'),
    'many_arrays': (
        lambda: safetensors({f'a{i}': tensor([], 4 * i, 4 * i + 4) for i in range(50_000)}, bytes(200_000)),
        '50,000 arrays'),
    'more_than_the_header_says': (safetensors({'a': tensor([1], 0, 4)}, bytes(9)), UNREADABLE),
}  # fmt: skip


# What a .pth holds: refused before torch, which would take it all in, sees any of it.
PTH = {
    'zeros_packed_a_thousandfold': (
        lambda: zipped([('a/data.pkl', bytes(2**26))], zipfile.ZIP_DEFLATED),
        'in a file of',
    ),
    'one_member_a_thousand_times': (lambda: overlapping(bytes(2**20), 5_000), 'bytes in a file of'),
    'many_storages': (lambda: zipped(many(20_001)), '20001 arrays'),
}


def hostile_files(models, top):
    """{case: path} of all the above."""
    paths = {}
    for kind, table in (('npz', NPZ), ('pth', PTH)):
        for name, (value, _) in table.items():
            path = paths[f'{kind} {name}'] = top / f'{kind}_{name}.{kind}'
            path.write_bytes(value() if callable(value) else value)
    for name, (value, _) in SAFETENSORS.items():
        data = value() if callable(value) else value
        for base in ('export', 'dinov2'):
            path = paths[f'{base} {name}'] = top / f'{base}_{name}'
            path.mkdir()
            shutil.copy(models[base] / 'config.json', path)
            (path / 'model.safetensors').write_bytes(data)
    return paths


DAMAGED = {  # model -> its files that are damaged
    'official': [''],
    'export': ['model.safetensors', 'config.json'],
    'dinov2': ['model.safetensors', 'config.json'],
    'clip': ['config.json'],
}


def damaged_models(guard, models, top, count, seed=0):
    """{case: path} of `count` damaged copies of each file of valid models."""
    paths = {}
    for base, files in DAMAGED.items():
        for file in files:
            for index, (what, data) in enumerate(guard.mutants((models[base] / file).read_bytes(), count, seed)):
                path = top / f'{base}_{file}_{index}'
                if not file:
                    path = path.with_suffix('.npz')
                    path.write_bytes(data)
                else:
                    path.mkdir()
                    for name in ('config.json', 'model.safetensors'):
                        if name != file:
                            os.link(models[base] / name, path / name)
                    (path / file).write_bytes(data)
                paths[f'{base} {file} {what} {index}'] = path
    return paths


@pytest.fixture(scope='module')
def outcomes(guard, models, tmp_path_factory):
    """{case: Outcome} of hostile files and a few damaged ones, read one after another in one process."""
    top = tmp_path_factory.mktemp('weights')
    paths = hostile_files(models, top) | damaged_models(guard, models, top, 10)
    found = guard.run(read, paths.values(), first=[models['official'], models['export']])
    shutil.rmtree(top)
    return dict(zip(paths, found, strict=True))


@pytest.mark.long
@pytest.mark.parametrize(('kind', 'table'), [
    ('npz', NPZ), ('pth', PTH), ('export', SAFETENSORS), ('dinov2', SAFETENSORS),
], ids=['npz', 'pth', 'export', 'dinov2'])  # fmt: skip
def test_hostile_weights_are_refused_for_their_reason(outcomes, kind, table):
    wrong = []
    for name, (_, words) in table.items():
        outcome = outcomes[f'{kind} {name}']
        if outcome.fault or outcome.kind != 'refused' or words not in outcome.text:
            wrong.append(f'{name} ({outcome.kind}): {outcome.fault or outcome.text}')
    assert not wrong, '\n'.join(wrong)


@pytest.mark.long
def test_damaged_models_are_used_or_refused(outcomes):
    faults = [f'{case}: {outcome.fault}' for case, outcome in outcomes.items() if outcome.fault]
    assert not faults, '\n'.join(faults)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2))
def test_thousands_of_damaged_models_are_used_or_refused(guarded, guard, models, tmp_path, seed):
    paths = damaged_models(guard, models, tmp_path, 350, seed + 1)
    kinds = [outcome.kind for outcome in guarded(read, paths.values(), first=models.values())]
    assert {'used', 'refused'} == set(kinds)

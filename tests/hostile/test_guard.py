"""The guard notices what no reader may do; without that, tests that rest on it would say nothing."""

import pathlib
import sys

import pytest


def use(path):
    pathlib.Path(path).read_bytes()


def leave(path):
    """Writes as a compiled library would: unseen by the interpreter."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.close(libc.creat(f'{path}.left'.encode(), 0o600))


def misbehave(path):
    """The file's name says how."""
    import ctypes
    import pickle
    import socket
    import subprocess
    import time

    from rvm_jax.errors import Stopped, UserError

    def refuse(text):
        raise UserError(path, text, 'fix it')

    def take(count):
        return len(bytearray(count))

    {
        'use': lambda: use(path),
        'refuse': lambda: refuse('no'),
        'refuse_in_lines': lambda: (_ for _ in ()).throw(Stopped(f'{path}\nno')),
        'refuse_at_length': lambda: (_ for _ in ()).throw(Stopped(f'{path} {"no" * 3000}')),
        'refuse_namelessly': lambda: (_ for _ in ()).throw(UserError('it', 'is wrong', 'fix it')),
        'crash': lambda: {}[path],
        'process': lambda: subprocess.run(['true'], check=True),
        'pickle': lambda: pickle.loads(pickle.dumps(pathlib.Path)),
        'text': lambda: exec('print(1)'),
        'write': lambda: open(f'{path}.wrote', 'w').close(),
        'remove': lambda: pathlib.Path(f'{path.removesuffix("remove")}write.wrote').unlink(),
        'connect': lambda: socket.socket().connect_ex(('127.0.0.1', 9)),
        'library': lambda: ctypes.CDLL(path),
        'memory': lambda: take(600 * 2**20),
        'hang': lambda: time.sleep(60),
        'die': lambda: ctypes.string_at(1),
        'exit': lambda: sys.exit(0),
    }[pathlib.Path(path).name]()


WORDS = {
    'use': '',
    'refuse': '',
    'refuse_in_lines': 'printable',
    'refuse_at_length': 'characters',
    'refuse_namelessly': 'does not name',
    'crash': 'KeyError',
    'process': 'subprocess.Popen',
    'pickle': 'pickle.find_class',
    'text': 'exec',
    'write': 'write.wrote',
    'remove': 'os.remove',
    'connect': 'socket.connect',
    'library': 'ctypes.dlopen',
    'memory': 'MiB',
    'hang': 'Timeout',
    'die': 'Segmentation fault',
    'exit': 'SystemExit',
}


def test_what_no_reader_may_do_is_noticed(guard, tmp_path):
    for name in WORDS:
        (tmp_path / name).write_bytes(b'')
    outcomes = guard.run(misbehave, [tmp_path / name for name in WORDS], seconds=10)
    faults = {pathlib.Path(outcome.file).name: outcome.fault for outcome in outcomes}
    assert list(faults) == list(WORDS)
    wrong = {name: faults[name] for name, word in WORDS.items() if word not in faults[name]}
    assert wrong == {} and faults['use'] == faults['refuse'] == ''


def test_a_file_changed_behind_the_hook_is_noticed(guard, tmp_path):
    (tmp_path / 'leave').write_bytes(b'')
    with pytest.raises(AssertionError, match='changed beside the files'):
        guard.run(leave, [tmp_path / 'leave'])


def test_mutants_differ_and_are_the_same_each_time(guard):
    data = bytes(range(256)) * 40
    first = guard.mutants(data, 200)
    assert first == guard.mutants(data, 200) != guard.mutants(data, 200, seed=1)
    assert sum(mutant != data for _, mutant in first) > 190 and len({mutant for _, mutant in first}) > 190

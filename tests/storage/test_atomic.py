import os
import pathlib
import signal
import subprocess
import sys

import pytest

from rvm_jax.storage import files
from rvm_jax.storage.atomic import _leftovers, atomic_write, is_partial

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'write_folder.py'


def write(path, text):
    with atomic_write(path) as partial, open(partial, 'w') as file:
        file.write(text)


def write_folder(path, text):
    with atomic_write(path) as partial:
        os.mkdir(partial)
        with open(os.path.join(partial, 'text'), 'w') as file:
            file.write(text)


def in_a_process(path, text, then=''):
    """Write a folder there; the exit code."""
    return subprocess.run([sys.executable, PROGRAM, path, text, then]).returncode


def test_a_file_and_a_folder_replace_older_ones(tmp_path):
    for text in 'old', 'new':
        write(tmp_path / 'deep' / 'file', text)
        write_folder(tmp_path / 'deep' / 'folder', text)
    assert (tmp_path / 'deep' / 'file').read_text() == (tmp_path / 'deep' / 'folder' / 'text').read_text() == 'new'
    assert sorted(os.listdir(tmp_path / 'deep')) == ['file', 'folder']


def test_an_error_leaves_what_was_there(tmp_path):
    write_folder(tmp_path / 'folder', 'old')
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / 'folder') as partial:
        os.mkdir(partial)
        raise KeyboardInterrupt
    with pytest.raises(IsADirectoryError):
        write(tmp_path / 'folder', 'a file in its place')
    assert (tmp_path / 'folder' / 'text').read_text() == 'old' and os.listdir(tmp_path) == ['folder']


def test_what_a_killed_attempt_left_is_deleted_by_the_next_one(tmp_path):
    assert in_a_process(tmp_path / 'folder', 'half', 'die') == -signal.SIGKILL
    (leftover,) = os.listdir(tmp_path)
    assert leftover != 'folder'
    write(tmp_path / 'other', 'not its business')
    assert leftover in os.listdir(tmp_path)
    write_folder(tmp_path / 'folder', 'whole')
    assert sorted(os.listdir(tmp_path)) == ['folder', 'other']


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path):
    write_folder(tmp_path / 'folder', 'old')
    assert in_a_process(tmp_path / 'folder', 'new', 'die between') == -signal.SIGKILL
    assert not (tmp_path / 'folder').exists()
    assert in_a_process(tmp_path / 'folder', 'newer', 'fail') == 1
    assert (tmp_path / 'folder' / 'text').read_text() == 'old' and os.listdir(tmp_path) == ['folder']


def test_leftovers_of_a_process_of_the_same_number_are_deleted(tmp_path):
    with atomic_write(tmp_path / 'folder') as partial:
        os.mkdir(partial)
    _leftovers.cache_clear()
    os.mkdir(partial)
    write_folder(tmp_path / 'folder', 'new')
    assert (tmp_path / 'folder' / 'text').read_text() == 'new' and os.listdir(tmp_path) == ['folder']


def test_what_is_not_finished_may_lie_in_another_folder(tmp_path):
    os.mkdir(tmp_path / 'scratch')
    with atomic_write(tmp_path / 'file', scratch=tmp_path / 'scratch', durable=True) as partial:
        assert os.path.dirname(partial) == str(tmp_path / 'scratch') and is_partial(partial)
        with open(partial, 'w') as file:
            file.write('new')
    assert (tmp_path / 'file').read_text() == 'new' and os.listdir(tmp_path / 'scratch') == []


def test_two_threads_that_write_the_same_do_not_meet(tmp_path):
    with atomic_write(tmp_path / 'file') as one, atomic_write(tmp_path / 'file') as other:
        assert one != other
        for partial in one, other:
            with open(partial, 'w') as file:
                file.write(partial)
    assert (tmp_path / 'file').read_text() == one and os.listdir(tmp_path) == ['file']


def test_who_still_writes_is_left_alone(tmp_path):
    with atomic_write(tmp_path / 'folder') as partial:
        os.mkdir(partial)
        assert in_a_process(tmp_path / 'folder', 'quicker') == 0
        assert os.path.isdir(partial)
    assert os.listdir(tmp_path) == ['folder']


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / 'far').mkdir()
    for name, act in ('file', write), ('folder', write_folder), ('later', write_folder):
        if name != 'later':
            act(tmp_path / 'far' / name, 'old')
        os.symlink(tmp_path / 'far' / name, tmp_path / name)
        act(tmp_path / name, 'new')
        assert os.readlink(tmp_path / name) == str(tmp_path / 'far' / name)
    assert (tmp_path / 'far' / 'file').read_text() == 'new'
    assert (tmp_path / 'far' / 'folder' / 'text').read_text() == 'new'
    assert (tmp_path / 'far' / 'later' / 'text').read_text() == 'new'
    assert sorted(os.listdir(tmp_path)) == sorted([*os.listdir(tmp_path / 'far'), 'far'])
    files.write(tmp_path / 'file', b'newer')
    assert os.path.islink(tmp_path / 'file') and (tmp_path / 'far' / 'file').read_text() == 'newer'


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    os.symlink('/dev/null', tmp_path / 'null')
    for name in 'pipe', 'null':
        with pytest.raises(OSError, match='is neither a file nor a folder'):
            write(tmp_path / name, 'text')
        with pytest.raises(OSError, match='is neither a file nor a folder'):
            files.write(tmp_path / name, b'text')
    assert sorted(os.listdir(tmp_path)) == ['null', 'pipe'] and not os.path.isfile('/dev/null')


@pytest.mark.parametrize('output', ['.', '..', '../..', 'inner/..', '/', '~'])
def test_a_folder_that_somebody_is_in_is_not_replaced(tmp_path, monkeypatch, output):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'a' / 'b')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    (tmp_path / 'home').mkdir()
    (tmp_path / 'a' / 'b' / 'inner').mkdir()
    with pytest.raises(OSError, match=r'current folder|home folder'):
        write_folder(os.path.expanduser(output), 'text')
    assert os.path.samefile('.', tmp_path / 'a' / 'b') and sorted(os.listdir(tmp_path)) == ['a', 'home']

import errno
import hashlib
import os
import resource

import pytest

from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import files, gcs


@pytest.fixture(params=['disk', 'bucket'])
def folder(request, tmp_path):
    return str(tmp_path / 'run') if request.param == 'disk' else request.getfixturevalue('store').path


def put(folder, *names):
    for name in names:
        files.make_folder(os.path.dirname(os.path.join(folder, name)))
        files.write(os.path.join(folder, name), name.encode())


def test_what_was_written_is_read_and_written_over(folder):
    put(folder, 'a.txt')
    path = os.path.join(folder, 'a.txt')
    assert files.read(path) == b'a.txt'
    files.write_json(path, {'step': 3}, durable=True)
    assert files.read_json(path) == {'step': 3}
    assert files.names(folder) == ['a.txt']


def test_folders_list_what_lies_in_them(folder):
    put(folder, 'b.txt', 'checkpoints/10/state/d/0', 'checkpoints/2/data')
    assert files.names(folder) == ['b.txt', 'checkpoints']
    assert files.names(os.path.join(folder, 'checkpoints')) == ['10', '2']
    assert files.files(os.path.join(folder, 'checkpoints')) == {'10/state/d/0': 24, '2/data': 18}
    assert files.exists(os.path.join(folder, 'checkpoints'))
    assert not files.exists(os.path.join(folder, 'check'))
    assert not files.exists(os.path.join(folder, 'checkpoints', '1'))


def test_what_is_removed_is_gone_and_its_neighbors_stay(folder):
    put(folder, 'steps/1/a', 'steps/1/b/c', 'steps/10/a')
    files.remove_folder(os.path.join(folder, 'steps', '1'))
    assert files.names(os.path.join(folder, 'steps')) == ['10']
    files.remove(os.path.join(folder, 'steps/10/a'))
    files.remove(os.path.join(folder, 'steps/10/a'))
    assert files.files(os.path.join(folder, 'steps')) == {}


def test_what_is_not_there_is_named(folder):
    assert files.names(os.path.join(folder, 'none')) == []
    with pytest.raises(FileNotFoundError, match='none'):
        files.read(os.path.join(folder, 'none'))


def test_a_checksum_is_the_same_wherever_the_file_lies(folder):
    put(folder, 'a.txt')
    for kind in ('md5', 'sha256'):
        assert files.digest(os.path.join(folder, 'a.txt'), kind) == hashlib.new(kind, b'a.txt').hexdigest()


def test_a_store_that_fails_sometimes_is_asked_again(store):
    store.fail(0.3)
    before = files.retries.total()
    for number in range(40):
        files.write(f'{store.path}/{number}', b'%d' % number)
    assert [files.read(f'{store.path}/{number}') for number in range(40)] == [b'%d' % n for n in range(40)]
    assert files.retries.total() - before == store.failed > 10


@pytest.mark.parametrize('act', [files.read, files.names, files.exists, lambda path: files.write(path, b'')])
def test_a_store_that_stays_away_is_reported_in_one_line(store, act):
    store.fail(1)
    with pytest.raises(
        Unavailable, match=rf'^{store.path}/a: does not answer \(.*503.*, 6 times\); start again'
    ) as got:
        act(f'{store.path}/a')
    assert store.failed == files.TRIES
    assert got.value.exit_code == 75


@pytest.mark.parametrize('act', [files.read, files.names, lambda path: files.write(path, b'')])
def test_a_store_that_refuses_is_not_asked_again(store, act):
    store.fail(1, status=403)
    with pytest.raises(PermissionError):
        act(f'{store.path}/a')
    assert store.failed == 1


def test_a_disk_that_hiccups_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'FIRST_WAIT', 0)
    errors = [OSError(errno.EIO, 'Input/output error'), TimeoutError('timed out')] * 2

    def read(path):
        if errors:
            raise errors.pop()
        return b'read'

    monkeypatch.setattr(files, '_read', read)
    assert files.read(tmp_path / 'a') == b'read'
    errors += [OSError(errno.EIO, 'Input/output error')] * files.TRIES
    with pytest.raises(Unavailable, match='Input/output error, 6 times'):
        files.read(tmp_path / 'a')


def test_a_disk_that_is_full_keeps_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'FIRST_WAIT', 3600)
    (tmp_path / 'a').write_text('old')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            files.write(tmp_path / 'a', b'new')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ['a']
    assert (tmp_path / 'a').read_text() == 'old'


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / 'gone' / 'a', b'new')
    assert os.listdir(tmp_path) == []


def test_an_object_is_only_replaced_in_the_version_that_was_seen(store):
    path = f'{store.path}/lock'
    gcs.write(path, b'one', version=gcs.ABSENT)
    with pytest.raises(FileExistsError):
        gcs.write(path, b'two', version=gcs.ABSENT)
    data, version = gcs.read(path)
    gcs.write(path, b'two', version=version)
    with pytest.raises(FileExistsError):
        gcs.write(path, b'three', version=version)
    assert (data, gcs.read(path)[0]) == (b'one', b'two')


def test_without_the_libraries_for_buckets_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(gcs.importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'rvm_jax\[gcs\]'"):
        files.read('gs://bucket/a')

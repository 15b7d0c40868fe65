import errno
import json
import os

import pytest

from rvm_jax.data import dataset_manifest
from rvm_jax.data.dataset_manifest import END_BYTES, check_unchanged, compare_manifests, file_entry, write_manifest
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.errors import UserError
from rvm_jax.storage import files

OLD = [['a.mp4', 10, 1], ['b.mp4', 20, 2], ['c.mp4', 30, 3]]


def test_the_difference_is_named_file_by_file():
    new = [['a.mp4', 10, 1], ['b.mp4', 20, 9], ['d.mp4', 30, 3]]
    assert compare_manifests(OLD, new) == ['added d.mp4', 'removed c.mp4', 'changed b.mp4']
    assert compare_manifests(OLD, OLD) == []
    assert compare_manifests(OLD, OLD[::-1]) == ['the same files in another order or number']


def test_a_change_at_either_end_of_a_file_is_seen(tmp_path):
    content = bytearray(3 * END_BYTES)
    entries = set()
    for position in (None, 5, len(content) - 5):
        changed = bytearray(content)
        if position is not None:
            changed[position] = 1
        (tmp_path / 'a.mp4').write_bytes(changed)
        entries.add(tuple(file_entry(tmp_path, 'a.mp4')))
    assert len(entries) == 3


def test_a_disk_that_hiccups_does_not_change_an_entry(tmp_path, monkeypatch):
    (tmp_path / 'a.mp4').write_bytes(b'video')
    expected, failures, stat = file_entry(tmp_path, 'a.mp4'), [OSError(errno.ESTALE, 'Stale file handle')], os.stat

    def flaky(path):
        if failures:
            raise failures.pop()
        return stat(path)

    monkeypatch.setattr(dataset_manifest.os, 'stat', flaky)
    monkeypatch.setattr(files, 'FIRST_WAIT', 0)
    assert file_entry(tmp_path, 'a.mp4') == expected == ['a.mp4', 5, expected[2]]


@pytest.fixture
def source(tmp_path):
    (tmp_path / 'videos').mkdir()
    for name in 'abc':
        (tmp_path / 'videos' / f'{name}.mp4').write_bytes(name.encode())
    return lambda: FolderSource(tmp_path / 'videos')


def test_changed_data_are_refused_with_the_difference(tmp_path, source):
    saved = tmp_path / 'data.json'
    assert check_unchanged(saved, source()) is None
    write_manifest(saved, source())
    assert check_unchanged(saved, source()) is None
    (tmp_path / 'videos' / 'b.mp4').unlink()
    (tmp_path / 'videos' / 'd.mp4').write_bytes(b'd')
    before = saved.read_text()
    with pytest.raises(UserError, match=r'added d\.mp4; removed b\.mp4.*allow_change'):
        check_unchanged(saved, source())
    assert saved.read_text() == before


def test_a_change_can_be_allowed(tmp_path, source):
    saved = tmp_path / 'data.json'
    write_manifest(saved, source())
    (tmp_path / 'videos' / 'b.mp4').write_bytes(b'other')
    before = saved.read_text()
    assert 'changed b.mp4' in check_unchanged(saved, source(), allow_change=True)
    assert saved.read_text() == before
    write_manifest(saved, source())
    assert check_unchanged(saved, source()) is None


def test_another_rule_of_drawing_clips_counts_as_a_change(tmp_path, source):
    saved = tmp_path / 'data.json'
    write_manifest(saved, source())
    saved.write_text(json.dumps({**json.loads(saved.read_text()), 'sampler_version': 0}))
    with pytest.raises(UserError, match='began with rule 0'):
        check_unchanged(saved, source())


def test_a_broken_manifest_is_named(tmp_path, source):
    (tmp_path / 'data.json').write_text('{')
    with pytest.raises(UserError, match='is not a manifest'):
        check_unchanged(tmp_path / 'data.json', source())


def test_a_folder_that_is_no_video_is_not_looked_at(tmp_path, monkeypatch):
    for name in ('a', 'b', '1.jpg'):
        (tmp_path / name).write_bytes(b'x')
    monkeypatch.setattr('builtins.open', lambda *_, **__: pytest.fail('a file was opened'))
    assert file_entry(tmp_path.parent, tmp_path.name) == [tmp_path.name, -1, 0]
    assert file_entry('/', 'dev') == ['dev', -1, 0]

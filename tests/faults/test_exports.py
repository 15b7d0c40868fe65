"""Interrupted exports and features: complete or not there, and no temporary files are left."""

import signal

import pytest

pytestmark = pytest.mark.slow


def whole_and_alone(folder, *names):
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.fault('F25c', 'no disk space for an export')
@pytest.mark.parametrize('words', [('out',), ('out.npz', '--format', 'official')])
def test_an_export_without_room_leaves_nothing(command, reference, tmp_path, seen, words):
    export = command('export', '--model', reference.workdir, '--output', tmp_path / words[0], *words[1:])
    export.limit_files(100_000)
    code, said = export.end()
    assert code == 2, said
    assert f'{tmp_path / words[0]}: cannot be written (File too large)' in said and len(said.splitlines()) == 1
    assert whole_and_alone(tmp_path)
    seen('exit 2, one line, nothing left')


@pytest.mark.fault('F25d', 'no disk space to replace an export')
def test_an_older_export_survives_one_that_fails(command, reference, tmp_path, seen):
    words = 'export', '--model', reference.workdir, '--output', tmp_path / 'out'
    assert command(*words).end()[0] == 0
    before = (tmp_path / 'out' / 'model.safetensors').read_bytes()
    export = command(*words, '--step', 9, '--overwrite')
    export.limit_files(100_000)
    assert export.end()[0] == 2
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == before and whole_and_alone(tmp_path, 'out')
    assert command(*words, '--step', 9, '--overwrite').end()[0] == 0
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() != before and whole_and_alone(tmp_path, 'out')
    seen('older one kept, then replaced')


@pytest.mark.fault('F25e', 'workdir to .npz to export folder and back')
def test_what_is_exported_comes_back_bit_for_bit(command, reference, tmp_path, seen):
    exports = [
        (reference.workdir, 'a.npz', '--format', 'official'),
        (tmp_path / 'a.npz', 'folder'),
        (tmp_path / 'folder', 'b.npz', '--format', 'official'),
    ]
    for model, output, *words in exports:
        code, said = command('export', '--model', model, '--output', tmp_path / output, *words).end()
        assert code == 0, said
    import numpy as np

    with np.load(tmp_path / 'a.npz') as a, np.load(tmp_path / 'b.npz') as b:
        assert set(a.files) == set(b.files) and all(a[key].tobytes() == b[key].tobytes() for key in a.files)
    seen('every array the same')


@pytest.mark.fault('F25f', 'SIGKILL and Ctrl-C while features are written')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_features_that_are_interrupted_are_whole_or_not_there(command, reference, videos, tmp_path, seen, number):
    words = 'features', '--model', reference.workdir, '--output', tmp_path, '--video', *sorted(videos.glob('*.mp4'))
    features = command(*words)
    features.wait_for('.npz')
    features.signal(number)
    code, said = features.end()
    assert code in (0, -number, 130), said
    assert command(*words).end()[0] == 0  # what is whole is kept
    assert whole_and_alone(tmp_path, *(f'{path.stem}.npz' for path in videos.glob('*.mp4')))
    seen(f'exit {code}, all there after the next start')

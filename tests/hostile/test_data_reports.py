"""JSON that a workdir or a folder of results holds, written by somebody else or cut off; and the names of outputs."""

import copy
import importlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvm_jax.data.dataset_manifest import check_unchanged
from rvm_jax.errors import DataError, UserError
from rvm_jax.probing import results
from rvm_jax.training.data_report import FailureLog, read_report

features = importlib.import_module('rvm_jax.features')  # the command; rvm_jax.features is the call
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just('\x1b[2J\n')
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
TEXTS = ['', '{', '[' * 100_000, '{"a":' * 100_000, '1e999', '"\\ud800"', '9' * 5000, '\ufeff{}']
REPORT = {
    'clips': 5,
    'failed': 1,
    'too_short': 0,
    'next_step': 2,
    'reasons': {'is damaged': {'a.mp4': {'count': 1, 'detail': 'x'}}},
}
MANIFEST = {'sampler_version': 2, 'videos': 1, 'files': [['a.mp4', 5, 7]]}
RESULTS = {
    'task': 'depth', 'metric': 'absrel', 'higher_is_better': False, 'value': 0.5, 'seed': 0,
    'model': {'path': 'a', 'tap': 'core', 'random_weights': False, 'precision': 'float32', 'fingerprint': 'f'},
    'protocol': {'streaming': False, 'size': 32}, 'schedule': {'steps': 3}, 'data': {'path': 'd'},
}  # fmt: skip


class Source:
    """What check_unchanged asks of data."""

    path = 'videos'

    def __len__(self):
        return 1

    def manifest(self):
        return [['a.mp4', 5, 7]]


def report_goes_on(path):
    log = FailureLog(path, 0.5, read_report(path))
    log.name([('failed', 'b.mp4', 'is damaged (at 1 s)')])
    log.count(10**9, 4, 1, 0)


def probe_goes_on(path):
    results.open_folder(os.path.dirname(path), {'task': 'depth'})


def labels(path):
    return [one.model.label('m', bool(one.streaming)) for one in results.read_scores(os.path.dirname(path))]


READERS = {
    'data_report.json': (REPORT, report_goes_on),
    'data_manifest.json': (MANIFEST, lambda path: check_unchanged(path, Source())),
    'results.json': (RESULTS, labels),
    'settings.json': ({'task': 'depth'}, probe_goes_on),
}  # fmt: skip


def refused_or_used(name, folder, text):
    (folder / name).write_text(text, encoding='utf-8', errors='surrogatepass')
    try:
        READERS[name][1](str(folder / name))
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 2000


def changed(values, data):
    """A document with one value replaced, somewhere."""
    values = copy.deepcopy(values)
    inner = values
    while True:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = data.draw(st.sampled_from(list(keys)))
        if not (isinstance(inner[key], (dict, list)) and inner[key] and data.draw(st.booleans())):
            inner[key] = data.draw(DOCUMENTS)
            return values
        inner = inner[key]


@pytest.mark.parametrize('name', READERS)
@given(data=st.data())
def test_a_document_with_any_value_changed_is_used_or_refused(tmp_path, name, data):
    refused_or_used(name, tmp_path, json.dumps(changed(READERS[name][0], data)))


@pytest.mark.parametrize('name', READERS)
@given(document=DOCUMENTS)
def test_any_document_is_used_or_refused(tmp_path, name, document):
    refused_or_used(name, tmp_path, json.dumps(document))


@pytest.mark.parametrize('name', READERS)
def test_what_is_no_document_is_refused(tmp_path, name):
    for text in TEXTS:
        (tmp_path / name).write_text(text, encoding='utf-8', errors='surrogatepass')
        with pytest.raises(UserError) as error:
            READERS[name][1](str(tmp_path / name))
        assert str(error.value).isprintable() and len(str(error.value)) < 2000


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('target', ['/dev/zero', 'pipe'])
def test_what_is_no_file_is_never_read(tmp_path, name, target):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / name).symlink_to(target)
    with pytest.raises((UserError, OSError), match='is not a regular file'):
        READERS[name][1](str(tmp_path / name))


def test_names_in_a_report_and_in_messages_are_escaped(tmp_path):
    path, name = tmp_path / 'data_report.json', '\x1b[2J\n\udcff.mp4'
    log = FailureLog(path, 0.1, read_report(path))
    log.name([('failed', name, f'is damaged ({name})')])
    assert json.dumps(log.report).isprintable() and json.loads(json.dumps(log.report)) == log.report
    with pytest.raises(DataError) as error:
        log.count(0, 0, 200, 0)
    assert str(error.value).isprintable()


def test_no_name_of_a_video_leads_out_of_the_output_folder(tmp_path):
    names = [
        '..mp4',
        '...mp4',
        '.mp4',
        '\x1b[2J.mp4',
        'a\nb.mp4',
        '..\\..\\a.mp4',
        'a.npz.mp4',
        '~.mp4',
        'a' * 250 + '.mp4',
    ]
    videos = [tmp_path / name for name in names]
    for video in videos:
        video.write_bytes(b'')
    outputs = features.planned_outputs(list(map(str, videos)), str(tmp_path / 'out'))
    assert len(set(outputs.values())) == len(names)
    assert {os.path.dirname(os.path.abspath(output)) for output in outputs.values()} == {str(tmp_path / 'out')}
    (tmp_path / 'a.npz.mkv').write_bytes(b'')
    with pytest.raises(UserError, match='would be written to'):
        features.planned_outputs([*map(str, videos), str(tmp_path / 'a.npz.mkv')], str(tmp_path / 'out'))

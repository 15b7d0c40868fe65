"""Prepared TFDS datasets that lie, or were damaged."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest

NAME = 'movies-train.array_record-00000-of-00001'
INFO = {
    'name': 'movies',
    'version': '1.0.0',
    'fileFormat': 'array_record',
    'splits': [
        {
            'name': 'train',
            'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
            'shardLengths': ['3'],
        }
    ],
}
PICTURE = {'image': {'dtype': 'uint8', 'shape': {'dimensions': ['-1', '-1', '3']}}}
FEATURES = {'featuresDict': {'features': {'video': {'sequence': {'feature': PICTURE}}}}}
STRANGE = [None, '', 'x', '../a', '/etc/passwd', '\x1b[2J', [], [[]], {}, -1, 2**70, 0.5, '-1', '9' * 30]


def read(path):
    """Everything that can be asked of a dataset."""
    from rvm_jax.data.sources.tfds import TfdsSource
    from rvm_jax.errors import DataError

    source, refused = TfdsSource(path, 'train'), []
    source.manifest()
    for index in range(len(source)):
        try:
            with source[index].open(10) as video:
                video.pictures([0, video.count(10) - 1], 10).decode(2)
        except DataError as error:
            refused.append(error)
    for error in refused:
        raise error


@pytest.fixture(scope='module')
def valid(tmp_path_factory):
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = tmp_path_factory.mktemp('valid') / '1.0.0'
    folder.mkdir()
    writer = ArrayRecordWriter(str(folder / NAME), 'group_size:1')
    for i in range(3):
        example = tf_example_pb2.Example()
        gray = np.full((24, 40, 3), 60 * i, np.uint8)
        example.features.feature['video'].bytes_list.value.extend([cv2.imencode('.jpg', gray)[1].tobytes()] * 4)
        writer.write(example.SerializeToString())
    writer.close()
    (folder / 'dataset_info.json').write_text(json.dumps(INFO))
    (folder / 'features.json').write_text(json.dumps(FEATURES))
    return folder


def places(values, path=()):
    yield path
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def changed(values, path, new):
    if not path:
        return new
    values = json.loads(json.dumps(values))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return values


def test_false_descriptions_are_refused(guarded, tmp_path, valid):
    shutil.copytree(valid, tmp_path / 'other' / '1.0.0')
    (tmp_path / 'lies').mkdir()
    texts = []
    for name, values in (('dataset_info.json', INFO), ('features.json', FEATURES)):
        where = list(places(values))
        texts += [(name, json.dumps(changed(values, w, STRANGE[i % len(STRANGE)]))) for i, w in enumerate(where)]
        texts += [(name, '[' * 100_000), (name, ''), (name, '{"a": ' * 50_000)]
    template = ('splits', 0, 'filepathTemplate')
    for text in (
        f'../../other/1.0.0/{NAME}',
        f'{tmp_path}/other/1.0.0/{NAME}',
        '{0.__class__}',
        '{DATASET!r:>99999999}',
    ):
        texts.append(('dataset_info.json', json.dumps(changed(INFO, template, text))))
    for number, (name, text) in enumerate(texts):
        folder = shutil.copytree(valid, tmp_path / 'lies' / f'{number:03}')
        (folder / name).write_text(text)
    outcomes = guarded(read, sorted((tmp_path / 'lies').iterdir()), first=[valid], memory=200 * 2**20)
    used = [texts[int(os.path.basename(outcome.file))] for outcome in outcomes if outcome.kind == 'used']
    assert all('../' not in text and str(tmp_path) not in text for _, text in used)
    assert len(used) < len(texts) / 2


@pytest.mark.parametrize('count', [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_records_are_used_or_refused(guard, guarded, tmp_path, valid, count):
    (tmp_path / 'mutants').mkdir()
    for i, (_, damaged) in enumerate(guard.mutants((valid / NAME).read_bytes(), count)):
        folder = shutil.copytree(valid, tmp_path / 'mutants' / f'{i:05}')
        (folder / NAME).write_bytes(damaged)
    outcomes = guarded(read, sorted((tmp_path / 'mutants').iterdir()), first=[valid])
    assert sum(outcome.kind == 'refused' for outcome in outcomes) > count / 2

"""Folders of shards and of TFDS, work left in an output folder: lying, damaged or made to do harm."""

import copy
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvm_jax.data import shard_format, shard_manifest
from rvm_jax.data.prepare import join_shards
from rvm_jax.data.prepare.encode_video import Settings, outcome_of, prepare_task, work_path
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.prepare.prepare_job import PrepareJob
from rvm_jax.data.video.shard_codecs import encode_group
from rvm_jax.errors import UserError

NUMBERS = [-1, 0, 1, 7, 2**31, 2**63, 10**40, 0.5, float('nan'), float('inf'), True]
VALUES = st.sampled_from([None, '', 'x', '../a.array_record', '/etc/passwd', '\x1b[2J', [], [[]], {}, *NUMBERS])
DEEP = b'[' * 100_000


def read_shards(path):
    """Everything that can be asked of a folder of shards."""
    from rvm_jax.data import shard_format, verify_shards
    from rvm_jax.data.open_data import open_source
    from rvm_jax.errors import DataError

    source = open_source(path, 'train')
    refused = []
    for index in range(len(source)):
        sequence = source[index]
        last = sequence.count(source.fps) - 1
        try:
            sequence.describe()
        except DataError as error:
            refused.append(error)
        try:
            sequence.pictures([0, last // 2, last], source.fps).decode(2)
        except DataError as error:
            refused.append(error)
    manifest = shard_format.read_manifest(path)
    verify_shards.damaged_shards(path, manifest, True)
    verify_shards.samples(path, manifest, 4)
    for error in refused:
        raise error


def frames(count, height=48, width=64):
    grays = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    return [np.roll(grays, 5 * i, axis=1) for i in range(count)]


def write_folder(folder, codec='jpeg', group=1, groups=None, counts=(12, 9), **lies):
    """A folder as `rvm prepare` writes it, of one shard; groups: records instead of honest ones."""
    settings = Settings(codec=codec, group=group, quality=90 if codec == 'jpeg' else 20)
    task = Task('a.mp4', 'a.mp4', None, None, 1, 1, 'train')
    if groups is None:
        groups = [
            encode_group(frames(count)[i : i + group], codec, settings.quality)
            for count in counts
            for i in range(0, count, group)
        ]
    sequences = [
        {'name': 'a.mp4', 'start_s': 0.0, 'frames': count, 'height': 48, 'width': 64} | lies for count in counts
    ]
    os.makedirs(folder)
    name = join_shards.shard_name('train', 0)
    records, size = shard_format.write_shard(os.path.join(folder, name), folder, groups, sequences)
    path = os.path.join(folder, name)
    entry = {'name': name, 'split': 'train', 'bytes': os.path.getsize(path), 'records': records}
    entry |= {'sha256': '0' * 64, 'frames': list(counts)}
    original = {'fps': 10.0, 'height': 48, 'width': 64, 'seconds': 2.1}
    outcome = {'sequences': sequences, 'records': records, 'bytes': size, 'original': original}
    manifest = join_shards.make_manifest(settings, 'digest', [task], [outcome], [entry])
    with open(os.path.join(folder, shard_format.MANIFEST), 'w') as file:
        json.dump(manifest, file)
    return folder


@pytest.fixture(scope='module')
def valid(tmp_path_factory):
    """{codec: folder}."""
    top = tmp_path_factory.mktemp('valid')
    return {'jpeg': write_folder(top / 'jpeg'), 'h264': write_folder(top / 'h264', 'h264', 4)}


def places(values, path=()):
    """Where the values of a JSON document lie: the keys to each."""
    yield path
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def changed(values, path, new):
    """A copy of a document with one value replaced."""
    if not path:
        return new
    values = copy.deepcopy(values)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return values


@given(st.data())
def test_a_manifest_with_any_value_changed_is_read_or_refused(tmp_path, valid, data):
    manifest = json.loads((valid['h264'] / shard_format.MANIFEST).read_text())
    where = data.draw(st.sampled_from(list(places(manifest))))
    (tmp_path / shard_format.MANIFEST).write_text(json.dumps(changed(manifest, where, data.draw(VALUES))))
    try:
        found = shard_format.read_manifest(str(tmp_path))
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000 and shard_format.MANIFEST in str(error)
        return
    [shard] = found['shards']
    assert shard['name'] == os.path.basename(shard['name']) and min(shard['frames']) > 0
    assert 0 < found['settings']['fps'] <= 1000 and found['settings']['group'] > 0


def test_false_manifests_open_nothing_outside(guarded, tmp_path, valid):
    manifest = json.loads((valid['jpeg'] / shard_format.MANIFEST).read_text())
    (tmp_path / 'lies').mkdir()
    shutil.copytree(valid['jpeg'], tmp_path / 'other')
    name = ('shards', 0, 'name')
    cases = {
        'above': changed(manifest, name, '../../other/train-00000.array_record'),
        'absolute': changed(manifest, name, str(tmp_path / 'other' / 'train-00000.array_record')),
        'password': changed(manifest, name, '/etc/passwd'),
        'escape': changed(manifest, name, '\x1b[2J.array_record'),
        'frames': changed(changed(manifest, ('shards', 0, 'frames'), [2**60]), ('shards', 0, 'records'), 2**60 + 1),
        'negative': changed(changed(manifest, ('shards', 0, 'frames'), [-5, 26]), ('shards', 0, 'records'), 22),
        'records': changed(manifest, ('shards', 0, 'records'), 2**40),
        'group': changed(manifest, ('settings', 'group'), 0),
        'rate': changed(manifest, ('settings', 'fps'), float('nan')),
        'size': changed(manifest, ('shards', 0, 'bytes'), '5'),
        'deep': None,
    }
    for case, lie in cases.items():
        shutil.copytree(valid['jpeg'], tmp_path / 'lies' / case)
        text = DEEP if lie is None else json.dumps(lie).encode()
        (tmp_path / 'lies' / case / shard_format.MANIFEST).write_bytes(text)
    for case, target in {'endless': '/dev/zero', 'pipe': 'pipe'}.items():
        shutil.copytree(valid['jpeg'], tmp_path / 'lies' / case)
        os.unlink(tmp_path / 'lies' / case / shard_format.MANIFEST)
        os.mkfifo(tmp_path / 'lies' / case / 'pipe')
        os.symlink(target, tmp_path / 'lies' / case / shard_format.MANIFEST)
    shutil.copytree(valid['jpeg'], tmp_path / 'lies' / 'shard_pipe')
    os.unlink(tmp_path / 'lies' / 'shard_pipe' / 'train-00000.array_record')
    os.mkfifo(tmp_path / 'lies' / 'shard_pipe' / 'train-00000.array_record')
    outcomes = guarded(read_shards, sorted((tmp_path / 'lies').iterdir()), first=valid.values(), memory=100 * 2**20)
    assert {outcome.kind for outcome in outcomes} == {'refused'}


def picture(kind, height, width):
    """A picture of 8 x 8 pixels whose header says another size."""
    data = bytearray(cv2.imencode(kind, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    if kind == '.png':
        data[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    else:
        start = data.index(b'\xff\xc0') + 5
        data[start : start + 4] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
    return bytes(data)


def test_records_that_lie_do_not_fill_the_memory(guarded, tmp_path, valid):
    (tmp_path / 'lies').mkdir()
    frame = encode_group(frames(1), 'jpeg', 90)
    large = picture('.jpg', 60_000, 60_000)
    records = {
        'large': [large] * 4,
        'large_png': [picture('.png', 60_000, 60_000)] * 4,
        'behind_fill': [b'\xff\xd8' + b'\xff' * 7 + large[3:]] * 4,
        'behind_other': [b'\xff\xd8\xff\xe0\x00\x04ab\xff\x01' + large[2:]] * 4,
        'behind_junk': [b'\xff\xd8' + b'junk' + large[2:]] * 4,
        'behind_thumbnail': [frame[:2] + b'\xff\xe1' + (len(frame) + 2).to_bytes(2, 'big') + frame + large[2:]] * 4,
        'text': [b'<svg width="60000" height="60000"/>'] * 4,
        'nothing': [b''] * 4,
        'sizes': [frame, encode_group(frames(1, 32, 32), 'jpeg', 90), frame, frame],
    }
    for name, groups in records.items():
        write_folder(tmp_path / 'lies' / name, groups=groups, counts=(4,))
    write_folder(
        tmp_path / 'lies' / 'group', 'h264', 2**30, groups=[encode_group(frames(9), 'h264', 20)], counts=(2**30,)
    )
    mixed = [encode_group(frames(2), 'h264', 20), encode_group(frames(2, 32, 32), 'h264', 20)]
    write_folder(tmp_path / 'lies' / 'mixed', 'h264', 2, groups=mixed, counts=(4,))
    write_folder(tmp_path / 'lies' / 'garbage', 'h264', 2, groups=[b'\0\0\1\x67' * 50, b'x'], counts=(4,))
    outcomes = guarded(read_shards, sorted((tmp_path / 'lies').iterdir()), first=valid.values(), memory=100 * 2**20)
    assert {outcome.kind for outcome in outcomes} == {'refused'}


def write_mutants(guard, folder, valid, count):
    """Folders whose shard, or manifest, is damaged; sizes agree, or nothing would be read."""
    for codec, sound in valid.items():
        for name in (join_shards.shard_name('train', 0), shard_format.MANIFEST):
            data = (sound / name).read_bytes()
            for i, (_, damaged) in enumerate(guard.mutants(data, count, seed=codec)):
                case = folder / f'{codec}_{name[:5]}_{i:05}'
                shutil.copytree(sound, case)
                (case / name).write_bytes(damaged)
                if name != shard_format.MANIFEST:
                    manifest = json.loads((sound / shard_format.MANIFEST).read_text())
                    manifest = changed(manifest, ('shards', 0, 'bytes'), len(damaged))
                    (case / shard_format.MANIFEST).write_text(json.dumps(manifest))
    return sorted(folder.iterdir())


@pytest.mark.parametrize('count', [12, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_shards_and_manifests_are_used_or_refused(guard, guarded, tmp_path, valid, count):
    (tmp_path / 'mutants').mkdir()
    files = write_mutants(guard, tmp_path / 'mutants', valid, count)
    outcomes = guarded(read_shards, files, first=valid.values())
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count('used') and kinds.count('refused') > count


@pytest.fixture
def work(tmp_path):
    """A folder of videos, and the output of a `rvm prepare` that began."""
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos' / 'a.mp4').write_bytes(b'no video')
    work = PrepareJob(str(tmp_path / 'videos'), str(tmp_path / 'output'), Settings(), 0.0)
    with work.begin():
        pass
    return work


@given(st.data())
def test_a_plan_with_any_value_changed_is_refused_in_a_line(work, data):
    path = os.path.join(work.output, shard_format.PLAN)
    with open(path, 'w') as file:
        json.dump(work._plan, file)
    where, new = data.draw(st.sampled_from(list(places(work._plan)))), data.draw(VALUES)
    plan = changed(work._plan, where, new)
    with open(path, 'w') as file:
        json.dump(plan, file)
    if json.dumps(plan) == json.dumps(work._plan) or plan == work._plan:
        return
    with pytest.raises(UserError) as error, work.begin():
        pass
    assert str(error.value).isprintable() and len(str(error.value)) < 3000


def test_a_plan_too_deep_is_refused_in_a_line(work):
    with open(os.path.join(work.output, shard_format.PLAN), 'wb') as file:
        file.write(DEEP)
    with pytest.raises(UserError, match='is not a plan of rvm prepare'), work.begin():
        pass


@given(st.data())
def test_an_outcome_with_a_changed_value_is_used_or_made_again(tmp_path, data):
    sequence = {'name': 'a', 'start_s': 0.0, 'frames': 5, 'height': 8, 'width': 8}
    original = {'fps': 10.0, 'height': 8, 'width': 8, 'seconds': 1.0}
    outcome = {'sequences': [sequence], 'records': 6, 'bytes': 100, 'original': original}
    lie = changed(outcome, data.draw(st.sampled_from(list(places(outcome)))), data.draw(VALUES))
    path = work_path(str(tmp_path), 0) + '.json'
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        json.dump(lie, file)
    found = outcome_of(str(tmp_path), 0)
    if found is not None:
        task = Task('a', 'a', None, None, 1, 1, 'train')
        entry = {'name': 'train-00000.array_record', 'split': 'train', 'bytes': 1, 'records': 6, 'frames': [5]}
        made = join_shards.make_manifest(Settings(), '', [task], [found], [entry | {'sha256': ''}])
        shard_manifest.check_manifest(json.loads(json.dumps(made)))
    fresh = prepare_task(0, Task('a', 'none', None, None, 1, 1, 'train'), Settings(), str(tmp_path))
    assert outcome_of(str(tmp_path), 0) == fresh

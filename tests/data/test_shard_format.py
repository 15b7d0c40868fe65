import os
import resource

import pytest

from rvm_jax.data import shard_format
from rvm_jax.errors import DataError, UserError

SEQUENCE = {'name': 'a.mp4', 'start_s': 0.0, 'frames': 20, 'height': 64, 'width': 80}


@pytest.fixture
def shard(tmp_path):
    path = str(tmp_path / 'a.array_record')
    records = [bytes([i]) * 20_000 for i in range(20)]
    assert shard_format.write_shard(path, tmp_path, records, [SEQUENCE]) == (21, 400_000)
    return path


def test_a_shard_gives_its_records_in_any_order(shard):
    reader = shard_format.ShardReader(shard, 21)
    assert [record[0] for record in reader.read([7, 0, 19])] == [7, 0, 19]
    assert shard_format.sequences_of(reader, 21, 1) == [SEQUENCE]
    reader.close()


@pytest.mark.parametrize('keep', [0, 1000, 300_000])
def test_a_shard_that_was_cut_off_is_an_error(shard, keep):
    os.truncate(shard, keep)
    with pytest.raises(DataError, match=r'a\.array_record: is damaged: it opens with 0 of 21 records'):
        shard_format.ShardReader(shard, 21)


def test_a_flipped_bit_costs_one_record(shard):
    with open(shard, 'r+b') as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 4]))
    reader, damaged = shard_format.ShardReader(shard, 21), []
    for record in range(21):
        try:
            reader.read([record])
        except DataError as error:
            assert 'a.array_record: is damaged (Corrupted' in str(error)
            damaged.append(record)
    assert len(damaged) == 1


def test_a_missing_shard_is_said_by_the_system(tmp_path):
    with pytest.raises(DataError, match=r'none: cannot be read \(No such file'):
        shard_format.ShardReader(str(tmp_path / 'none'), 3)


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path):
    path = str(tmp_path / 'a.array_record')

    def groups():
        yield b'1'
        assert not os.path.exists(path)
        raise DataError('b.mp4', 'is damaged', '')

    with pytest.raises(DataError):
        shard_format.write_shard(path, tmp_path, groups(), [])
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            shard_format.write_shard(str(tmp_path / 'a.array_record'), tmp_path, [bytes(1 << 20)] * 3, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'is not a manifest of shards'),
        ('[]', 'is not a manifest of shards'),
        ('{"format": 9}', 'has format 9, this version reads 1'),
        ('{"format": 1, "settings": {"group": 8}, "shards": []}', r"is not a manifest of shards \('fps'\)"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path, text, reason):
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(UserError, match=reason):
        shard_format.read_manifest(str(tmp_path))

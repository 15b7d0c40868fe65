import pytest

from rvm_jax.errors import DataError
from rvm_jax.probing.datasets.reading.tfrecord import frame_record, read_record, record_places

RECORDS = [b'first', b'', b'third' * 1000]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'some.tfrecord'
    path.write_bytes(b''.join(map(frame_record, RECORDS)))
    return path


def test_records_come_back(path):
    assert [read_record(path, place) for place in record_places(path)] == RECORDS


def test_the_checksum_is_the_one_of_the_format():
    # As TensorFlow writes the header of a record of 5 bytes.
    assert frame_record(b'first')[:12] == bytes.fromhex('0500000000000000eab2043e')


@pytest.mark.parametrize('size', [-3, 7, 40])
def test_a_file_that_was_cut_off_is_named(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r'some\.tfrecord: was cut off'):
        record_places(path)


def test_another_kind_of_file_is_named(path):
    path.write_bytes(b'no TFRecord, whatever its name says')
    with pytest.raises(DataError, match=r'some\.tfrecord: is not a TFRecord'):
        record_places(path)
    with pytest.raises(DataError, match='is not there'):
        record_places(path.with_name('other'))

"""Shards: what is in these files and in their manifest, how they are written and opened.

A shard is an ArrayRecord file. A *sequence* is a run of frames of one video at the folder's frame rate: the whole
video, or a piece of it. Its frames lie one after another, `group` of them to a record (see video/shard_codecs.py), so
a training clip may begin at any of them, and reading one needs only the records that hold its frames. The last record
of a shard is JSON about its sequences: {'sequences': [{name, start_s, frames, height, width}, ...]}.

`manifest.json` describes the folder: `settings`, `splits` (videos, sequences, clips, frames, hours of each), histograms
of the original videos, and for each shard its name, split, bytes, records, sha256 and the frames of each sequence in
it. It is read first, because ArrayRecord opens a file that was cut off, or does not exist, as one without records.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rvm_jax.data.shard_manifest import NO_MANIFEST, check_manifest
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files
from rvm_jax.storage.atomic import atomic_write

MANIFEST = 'manifest.json'
UNFINISHED = 'unfinished'  # folder of work that `rvm prepare` has begun
PLAN = os.path.join(UNFINISHED, 'plan.json')
SKIPPED = 'skipped.json'
SEQUENCE = {'name', 'start_s', 'frames', 'height', 'width'}
FORMAT = 1  # raise it when an older reader would misread the files
WRITER_OPTIONS = 'group_size:1,uncompressed'  # records are read one by one, and are compressed frames already
READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'
READER_BUFFER = 32 * 1024  # bytes
AGAIN = 'restore the file, or prepare the data again'
MOST_CHARACTERS = 200  # of what is quoted from a file


def is_shards(folder: str | os.PathLike) -> bool:
    """Whether a path is a folder that `rvm prepare` writes or has begun; other programs have a manifest.json too."""
    if not os.path.isdir(folder) or os.path.exists(os.path.join(folder, 'dataset_info.json')):  # TFDS has shards too
        return False
    names = set(os.listdir(folder))
    has_shards = SKIPPED in names or any(name.endswith('.array_record') for name in names)
    return (MANIFEST in names and has_shards) or os.path.exists(os.path.join(folder, PLAN))


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a folder of shards. UserError if it is not such a folder, or of another version."""
    path = os.path.join(folder, MANIFEST)
    try:
        manifest = files.read_json(path)
        if manifest['format'] != FORMAT:
            raise UserError(
                path, f'has format {str(manifest["format"])[:MOST_CHARACTERS]}, this version reads {FORMAT}', AGAIN
            )
        check_manifest(manifest)
    except FileNotFoundError:
        raise UserError(path, 'is missing', 'run the same rvm prepare command again, it finishes the folder') from None
    except (OSError, *NO_MANIFEST) as error:
        raise UserError(path, f'is not a manifest of shards ({str(error)[:MOST_CHARACTERS]})', AGAIN) from error
    return manifest


def check_sizes(folder: str | os.PathLike, shards: Iterable[dict]) -> None:
    """DataError, naming the first, if a shard of a manifest is missing or has another size."""
    for shard in shards:
        path = os.path.join(folder, shard['name'])
        try:
            size = files.check_regular(path)
        except OSError as error:
            raise DataError(path, f'is in the manifest but cannot be read ({error.strerror})', AGAIN) from error
        if size != shard['bytes']:
            raise DataError(path, f'has {size:,} bytes instead of {shard["bytes"]:,}', AGAIN)


class ShardReader:
    """An open shard: read(records) -> [bytes]. DataError if it does not have the number of records that it must have.

    OSError for a fault of disk or network that may pass; DataError where the file itself is damaged.
    """

    def __init__(self, path: str, num_records: int):
        from array_record.python.array_record_module import ArrayRecordReader

        self.path = path
        check_readable(path)
        self._reader = ArrayRecordReader(path, options=READER_OPTIONS, file_reader_buffer_size=READER_BUFFER)
        found = self._reader.num_records()
        if found != num_records:
            self._check_system()
            raise DataError(path, f'is damaged: it opens with {found:,} of {num_records:,} records', AGAIN)

    def read(self, records: Iterable[int]) -> list[bytes]:
        """The records with these numbers, in their order."""
        try:
            return self._reader.read(list(records))
        except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord makes of its status codes
            raise reading_fault(self.path, str(error)) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(RuntimeError):  # repeats what was wrong with a record
            self._reader.close()

    def _check_system(self):
        """OSError if the file could not be opened for a reason outside of it; this closes it."""
        try:
            self._reader.close()
        except RuntimeError as error:
            if isinstance(_fault(self.path, str(error)), OSError):
                raise reading_fault(self.path, str(error)) from error


def _fault(path, message):
    """OSError where a call to the system failed ('pread() failed: Input/output error; reading ...'), else DataError."""
    if 'failed: ' in message:
        reason = message.split('failed: ')[1].split(';')[0]
        number = next((number for number in errno.errorcode if os.strerror(number) == reason), errno.EIO)
        return OSError(number, reason, path)
    return DataError(path, f'is damaged ({message.split(":")[0]})', AGAIN)


def reading_fault(path: str, message: str) -> OSError | DataError:
    """The error that ArrayRecord's message stands for: OSError where it may pass, else DataError."""
    fault = _fault(path, message)
    if isinstance(fault, OSError) and not files.may_pass(fault):
        return DataError(path, f'cannot be read ({fault.strerror})', AGAIN)
    return fault


def check_readable(path: str) -> None:
    """ArrayRecord does not say why it cannot open a file: OSError where that may pass, else DataError."""
    try:
        files.check_regular(path)
        with open(path, 'rb'):
            pass
    except OSError as error:
        if files.may_pass(error):
            raise
        raise DataError(path, f'cannot be read ({error.strerror})', AGAIN) from error


@contextlib.contextmanager
def shard_writer(path: str, scratch: str) -> Iterator[Callable[[bytes], Any]]:
    """write(bytes), for the time of a `with` block; the file has its name once it is whole and on the disk.

    Until then it is in the folder scratch, of the same disk, under a name of its own: where a runner believes that a
    worker is dead and starts another, the two must not write to one file. OSError if it cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        with atomic_write(path, scratch=scratch, durable=True) as partial:
            writer = ArrayRecordWriter(partial, WRITER_OPTIONS)
            yield writer.write
            writer.close()
    except RuntimeError as error:
        raise _fault(path, str(error)) from error


def write_shard(path: str, scratch: str, groups: Iterable[bytes], sequences: list[dict]) -> tuple[int, int]:
    """Write records of frames, then one that describes them. Returns (number of records, bytes of the frames)."""
    records, size = 0, 0
    with shard_writer(path, scratch) as write:
        for record in groups:
            write(record)
            records, size = records + 1, size + len(record)
        write(json.dumps({'sequences': sequences}).encode())
    return records + 1, size


def sequences_of(reader: ShardReader, num_records: int, count: int) -> list[dict[str, Any]]:
    """What the last record of an open shard says of its `count` sequences. DataError where it does not."""
    try:
        sequences = json.loads(reader.read([num_records - 1])[0])['sequences']
        if [sequence.keys() >= SEQUENCE for sequence in sequences] == count * [True]:
            return sequences
        reason = f'does not describe {count:,} sequences'
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)[:MOST_CHARACTERS]
    raise DataError(reader.path, f'is damaged ({reason})', AGAIN)

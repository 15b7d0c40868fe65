"""Which videos, or pieces of them, are to become shards, and on which side of the split each belongs."""

import csv
import dataclasses
import hashlib
import math
import os

from rvm_jax.data.dataset_manifest import file_entries
from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.data.sources.folder import MAX_PATH, FolderSource, bounded_lines
from rvm_jax.data.video.timestamps import LONGEST_S
from rvm_jax.errors import UserError
from rvm_jax.storage import files

COLUMNS = 'a line "path,start,end" on top, start and end in seconds and not required'
FIX = f'give a CSV file with {COLUMNS}'


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A video to prepare, or the piece from start_s to end_s of it (seconds; None: its start, its end).

    name is relative to the input's folder; bytes and crc32, of both ends, are those of the file (bytes -1: no file).
    """

    name: str
    path: str
    start_s: float | None
    end_s: float | None
    bytes: int
    crc32: int
    split: str


def list_tasks(path: str, val_fraction: float) -> tuple[list[Task], list[str]]:
    """(tasks in order, names outside the input's folder) of a folder, glob, list, CSV file or video.

    A video goes to 'val' by a hash of its content, with probability val_fraction. So it stays in its split, with its
    copies and all its pieces, whatever other videos there are and wherever it is. UserError if there is nothing to
    prepare.
    """
    root, pieces = _read_csv(path) if path.lower().endswith('.csv') else _read_source(path)
    names = list(dict.fromkeys(name for name, _, _ in pieces))
    entries = {name: (size, crc32) for name, size, crc32 in file_entries(root, names)}
    tasks = []
    for name, start_s, end_s in pieces:
        size, crc32 = entries[name]
        split = _split(size, crc32, val_fraction)
        tasks.append(Task(name, os.path.join(root, name), start_s, end_s, size, crc32, split))
    inside = os.path.join(os.path.realpath(root), '')
    outside = [name for name in names if not os.path.realpath(os.path.join(root, name)).startswith(inside)]
    return tasks, outside


def _read_source(path):
    source = FolderSource(path)
    return source.root, [(name, None, None) for name in source.names]


def _read_csv(path):
    pieces = []
    try:
        files.check_regular(path)
        with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
            rows = csv.DictReader(bounded_lines(path, file, csv.field_size_limit(), FIX), skipinitialspace=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            if 'path' not in rows.fieldnames:
                raise UserError(path, 'does not have a column named path', f'give it {COLUMNS}')
            for name in rows.fieldnames:
                if name not in ('start', 'end') and name.lower().startswith(('start', 'end')):
                    reason = f'has an unknown column {name[:MOST_CHARACTERS]}'
                    raise UserError(path, reason, 'call it start or end, in seconds')
            for row in rows:
                if not row['path']:
                    raise UserError(f'{path} line {rows.line_num}', 'does not have a path', 'correct it')
                if len(row['path']) > MAX_PATH:
                    raise UserError(
                        f'{path} line {rows.line_num}', f'has a path of more than {MAX_PATH:,} characters', 'correct it'
                    )
                start_s, end_s = (_seconds(path, rows.line_num, row.get(column)) for column in ('start', 'end'))
                if end_s is not None and end_s <= (start_s or 0):
                    raise UserError(f'{path} line {rows.line_num}', 'ends before it starts', 'correct it')
                pieces.append((row['path'], start_s, end_s))
    except (OSError, csv.Error) as error:
        raise UserError(path, f'cannot be read ({getattr(error, "strerror", None) or error})', FIX) from error
    if not pieces:
        raise UserError(path, 'names no video', f'give it {COLUMNS}')
    return os.path.dirname(os.path.abspath(path)), pieces


def _seconds(path, line, text):
    if text is None or not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_S:
        reason = f'{text[:MOST_CHARACTERS]!r} is not a time'
        raise UserError(f'{path} line {line}', reason, 'give seconds from the start of the video')
    return seconds


def _split(size, crc32, val_fraction):
    digest = hashlib.sha256(f'{size} {crc32}'.encode()).digest()
    return 'val' if int.from_bytes(digest[:8], 'big') < val_fraction * 2**64 else 'train'

"""Where a public dataset comes from and how it lies on disk; the one way to say that a piece of it is missing."""

import contextlib
import csv
import dataclasses
import logging
import os

from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, csv.Error)
MAX_LINE = 100_000  # characters: a picture's line in a list has a hundred


@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """name: what the dataset is called; site: who gives it away; layout: what its root folder must hold."""

    name: str
    site: str
    layout: str

    def find(self, root, what, *names):
        """The path of the first of names (relative to root) that is there. UserError that says what is missing if none.

        what says in words what those files or folders are.
        """
        for name in names:
            if os.path.exists(os.path.join(root, name)):
                return os.path.normpath(os.path.join(root, name))
        raise self.missing(os.path.join(root, names[0]), what, root)

    def missing(self, path, what, root):
        """UserError for something that is not there, to be raised."""
        fix = f'download {self.name} ({self.site}) and put it into {root} as {self.layout}'
        return UserError(path, f'is not there ({what} of {self.name})', fix)

    def broken(self, path, reason):
        """UserError for a file of labels that cannot be used, to be raised."""
        return UserError(path, reason, f'download {self.name} ({self.site}) again')

    @contextlib.contextmanager
    def reading(self, path):
        """UserError for what a table turns out to lack in the `with` block."""
        try:
            yield
        except MALFORMED as error:
            raise self.broken(path, f'lacks an entry ({described(error)})') from error

    @contextlib.contextmanager
    def reading_item(self, path):
        """DataError for what one item turns out to lack in the `with` block; path is where it is."""
        try:
            yield
        except MALFORMED as error:
            fix = f'download {self.name} ({self.site}) again, or leave it out'
            raise DataError(path, f'lacks an entry ({described(error)})', fix) from error

    def inside(self, table, name):
        """A name that a table has for a file, checked: UserError if it leads out of the dataset."""
        if not isinstance(name, str) or os.path.isabs(name) or '..' in name.split('/') or '\0' in name:
            raise self.broken(table, f'names {str(name)[:MOST_CHARACTERS]!r}, which is no file of the dataset')
        return name

    def json(self, path):
        """The values in a JSON file. UserError if it is none."""
        try:
            return files.read_json(path)
        except ValueError as error:
            raise self.broken(path, f'is not JSON ({error})') from error

    def listed(self, path, what):
        """The lines of a list, each once. UserError if it is empty; what says in words of what it is."""
        lines = once(self.lines(path))
        if not lines:
            raise self.broken(path, f'lists no {what}')
        return lines

    def names(self, path, what):
        """`listed` of files or folders, all of which lie in the dataset."""
        return [self.inside(path, line) for line in self.listed(path, what)]

    def lines(self, path):
        """The lines of a text file that are not blank, stripped. UserError if it is no text."""
        try:
            lines = [line.strip() for line in files.read(path).decode().split('\n')]
        except UnicodeDecodeError as error:
            raise self.broken(path, 'is not a text file') from error
        if any('\0' in line or len(line) > MAX_LINE for line in lines):
            raise self.broken(path, f'is not a text file with lines of at most {MAX_LINE:,} characters')
        return [line for line in lines if line]


def described(error):
    """What an error of Python says, for one line."""
    return f'{type(error).__name__}: {str(error)[:MOST_CHARACTERS]}'


def once(lines):
    """What a list names, each once; a warning counts what it names again."""
    distinct = list(dict.fromkeys(lines))
    if len(distinct) < len(lines):
        twice = len(lines) - len(distinct)
        logging.getLogger(__name__).warning('%d of %d lines name an example again and are left out', twice, len(lines))
    return distinct


def checked_split(split, splits):
    """What the dataset calls a split: splits maps ours to its. UserError for a split that it does not have."""
    if split not in splits:
        raise UserError(f'split {split!r}', 'is not one of this dataset', f'give one of: {", ".join(splits)}')
    return splits[split]


def read_bytes(path):
    """The bytes of one item. DataError if it is not there."""
    try:
        return files.read(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            reason = 'is not there'
        else:
            reason = f'cannot be read ({getattr(error, "strerror", None) or error})'
        raise DataError(path, reason, 'download it again, or take it out of the list') from error

"""Where a public dataset comes from and its layout on disk; every message about a missing part of it starts here."""

import contextlib
import csv
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, csv.Error)
MAX_LINE = 100_000  # characters; a line of a list has about a hundred
Item = TypeVar('Item')


@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """name of the dataset; site that offers it; layout: what its root folder must hold."""

    name: str
    site: str
    layout: str

    def find(self, root: str, what: str, *names: str) -> str:
        """The path of the first of names (relative to root) that exists. UserError if none does.

        what describes these files or folders for the message.
        """
        for name in names:
            if os.path.exists(os.path.join(root, name)):
                return os.path.normpath(os.path.join(root, name))
        raise self.missing(os.path.join(root, names[0]), what, root)

    def missing(self, path: str, what: str, root: str) -> UserError:
        """The UserError to raise for a file or folder that does not exist."""
        fix = f'download {self.name} ({self.site}) and put it into {root} as {self.layout}'
        return UserError(path, f'is not there ({what} of {self.name})', fix)

    def check_videos(self, paths: Sequence[str], root: str) -> None:
        """UserError with the first video that is not there, and how many are missing."""
        folders = {os.path.dirname(path) for path in paths}
        there = {os.path.join(folder, name) for folder in folders for name in files.names(folder)}
        missing = [path for path in paths if path not in there]
        if missing:
            raise self.missing(missing[0], f'one of {len(missing)} missing videos of {len(paths)}', root)

    def broken(self, path: str, reason: str) -> UserError:
        """The UserError to raise for a file of labels that cannot be used."""
        return UserError(path, reason, f'download {self.name} ({self.site}) again')

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Turn errors of a malformed table in the `with` block into a UserError."""
        try:
            yield
        except MALFORMED as error:
            raise self.broken(path, f'lacks an entry ({described(error)})') from error

    @contextlib.contextmanager
    def reading_item(self, path: str) -> Iterator[None]:
        """Turn errors of one malformed item in the `with` block into a DataError; path says where it is."""
        try:
            yield
        except MALFORMED as error:
            fix = f'download {self.name} ({self.site}) again, or leave it out'
            raise DataError(path, f'lacks an entry ({described(error)})', fix) from error

    def inside(self, table: str, name: Any) -> str:
        """A file name from a table, checked: UserError if it points outside the dataset."""
        if not isinstance(name, str) or os.path.isabs(name) or '..' in name.split('/') or '\0' in name:
            raise self.broken(table, f'names {str(name)[:MOST_CHARACTERS]!r}, which is not a file of the dataset')
        return name

    def json(self, path: str) -> Any:
        """The values in a JSON file. UserError if it is not JSON."""
        try:
            return files.read_json(path)
        except ValueError as error:
            raise self.broken(path, f'is not JSON ({error})') from error

    def listed(self, path: str, what: str) -> list[str]:
        """The lines of a list, each once. UserError if it is empty; `what` names what it lists."""
        lines = once(self.lines(path))
        if not lines:
            raise self.broken(path, f'does not list a {what}')
        return lines

    def names(self, path: str, what: str) -> list[str]:
        """`listed` for names of files or folders; all must be inside the dataset."""
        return [self.inside(path, line) for line in self.listed(path, what)]

    def lines(self, path: str) -> list[str]:
        """The lines of a text file that are not blank, stripped. UserError if it is not a text file."""
        try:
            lines = [line.strip() for line in files.read(path).decode().split('\n')]
        except UnicodeDecodeError as error:
            raise self.broken(path, 'is not a text file') from error
        if any('\0' in line or len(line) > MAX_LINE for line in lines):
            raise self.broken(path, f'is not a text file with lines of at most {MAX_LINE:,} characters')
        return [line for line in lines if line]


def described(error: BaseException) -> str:
    """An error of Python in one line."""
    return f'{type(error).__name__}: {str(error)[:MOST_CHARACTERS]}'


def once(lines: Sequence[Item]) -> list[Item]:
    """The items of a list, each once; a warning counts the repeated ones."""
    distinct = list(dict.fromkeys(lines))
    if len(distinct) < len(lines):
        twice = len(lines) - len(distinct)
        logging.getLogger(__name__).warning('%d of %d lines repeat an example and are left out', twice, len(lines))
    return distinct


def checked_split(split: str, splits: Mapping[str, Item]) -> Item:
    """The dataset's own name of a split; splits maps our names to it. UserError for a split that it does not have."""
    if split not in splits:
        raise UserError(f'split {split!r}', 'is not a split of this dataset', f'give one of: {", ".join(splits)}')
    return splits[split]


def read_bytes(path: str) -> bytes:
    """The bytes of one item. DataError if it cannot be read."""
    try:
        return files.read(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            reason = 'is not there'
        else:
            reason = f'cannot be read ({getattr(error, "strerror", None) or error})'
        raise DataError(path, reason, 'download it again, or take it out of the list') from error

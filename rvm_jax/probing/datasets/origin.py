"""Where a public dataset comes from and how it lies on disk; the one way to say that a piece of it is missing."""

import contextlib
import dataclasses
import logging
import os

from rvm_jax import storage
from rvm_jax.errors import DataError, UserError


@dataclasses.dataclass(frozen=True)
class Origin:
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
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self.broken(path, f'lacks an entry ({type(error).__name__}: {error})') from error

    def json(self, path):
        """The values in a JSON file. UserError if it is none."""
        try:
            return storage.read_json(path)
        except ValueError as error:
            raise self.broken(path, f'is no JSON ({error})') from error

    def listed(self, path, what):
        """The lines of a list, each once. UserError if it is empty; what says in words of what it is."""
        lines = once(self.lines(path))
        if not lines:
            raise self.broken(path, f'lists no {what}')
        return lines

    def lines(self, path):
        """The lines of a text file that are not blank, stripped. UserError if it is no text."""
        try:
            return [line for line in map(str.strip, storage.read(path).decode().splitlines()) if line]
        except UnicodeDecodeError as error:
            raise self.broken(path, 'is no text file') from error


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
        return storage.read(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(path, 'is not there', 'download it again, or take it out of the list') from error

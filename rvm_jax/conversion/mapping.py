"""Tables that translate the names of parameters; what no rule of a table fits is returned, never dropped."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar('T')


def translate(named: Mapping[str, T], table: Iterable[tuple[str, str]]) -> tuple[dict[str, T], list[str]]:
    """Rename every entry by the first (pattern, replacement) that fits; '#' stands for a number, '*' for the rest.

    Returns (renamed, names that no pattern fits).
    """
    rules = [(re.compile(_regex(pattern)), replacement) for pattern, replacement in table]
    renamed, unknown = {}, []
    for name, array in named.items():
        for pattern, replacement in rules:
            if match := pattern.fullmatch(name):
                renamed[_fill_in(replacement, match.groupdict())] = array
                break
        else:
            unknown.append(name)
    return renamed, unknown


def invert(table: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The same table read from right to left."""
    return tuple((right, left) for left, right in table)


def _regex(pattern):
    return re.escape(pattern).replace(r'\#', r'(?P<number>\d+)').replace(r'\*', r'(?P<rest>.+)')


def _fill_in(replacement, groups):
    return replacement.replace('#', groups.get('number', '')).replace('*', groups.get('rest', ''))

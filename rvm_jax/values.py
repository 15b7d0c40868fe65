"""Values that are typed on a command line: one parser for the keys of a config and the settings of a probe."""

import ast
import math
from typing import Any

from rvm_jax.errors import UserError

EVERY_FRAME = 'all'  # in place of frames per second


def parse_value(text: str) -> Any:
    """The value that a text stands for: true, false, none, a number, a tuple such as (0.3,1.0); else the text."""
    text = text.strip()
    if text.lower() in ('true', 'false', 'none'):
        return ast.literal_eval(text.capitalize())
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that it raises for a bad text
        return text
    return tuple(value) if isinstance(value, list) else value


def in_type_of(default: Any, value: Any) -> Any:
    """A number in the type of a default: 1e4 is a whole number where one is wanted, and 3 is 3.0; the rest as it is."""
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    if type(default) is float and type(value) is int:
        return float(value)
    return value


def frame_rate(given: str | None) -> float | str | None:
    """What --fps gives: frames per second, EVERY_FRAME, or None where it is left out. UserError for anything else."""
    if given is None or given == EVERY_FRAME:
        return given
    try:
        fps = float(given)
    except ValueError:
        fps = math.nan
    if not 0 < fps < math.inf:
        raise UserError(f'--fps {given}', 'is not a number above 0', f'leave it out, or give --fps {EVERY_FRAME}')
    return fps

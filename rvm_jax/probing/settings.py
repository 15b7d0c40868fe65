"""Settings of a dataset, a task or a schedule: their names, their defaults, and values from the command line."""

import argparse
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rvm_jax.errors import UserError
from rvm_jax.values import in_type_of, parse_value

NUMBERS = (int, float)


def setting(text: str) -> tuple[str, str]:
    """(key, value) of a KEY=VALUE on the command line."""
    key, equals, value = text.partition('=')
    if not (key and equals):
        raise argparse.ArgumentTypeError(f'{text}: is not KEY=VALUE, such as schedule.steps=2000')
    return key, value


def resolve(made_by: Any, overrides: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """{name: value} of all settings; those in overrides ({name: text}) have the value of their text.

    made_by takes the settings: a class or function (its keyword-only arguments), a dataclass (its fields), or an
    instance of a dataclass, whose values are then the defaults. A setting that is itself a dataclass is set through its
    own settings, as in 'settings.top_k'. prefix is the name of the group on the command line, such as 'data'.
    UserError if it is not a setting, or if it does not take this value.
    """
    values = _defaults(made_by)
    inner: dict[str, dict[str, str]] = {name: {} for name in values if dataclasses.is_dataclass(values[name])}
    for name, text in overrides.items():
        outer, _, rest = name.partition('.')
        if rest and outer in inner:
            inner[outer][rest] = text
        elif name in values and name not in inner:
            values[name] = _value(name, values[name], text, f'--set {prefix}.{name}={text}')
        else:
            raise _unknown(f'--set {prefix}.{name}={text}', made_by)
    for name, texts in inner.items():
        changed = resolve(values[name], texts, f'{prefix}.{name}')
        values[name] = dataclasses.replace(values[name], **changed)
    return values


def _defaults(made_by):
    if dataclasses.is_dataclass(made_by) and not isinstance(made_by, type):
        return {field.name: getattr(made_by, field.name) for field in dataclasses.fields(made_by) if field.init}
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(made_by).parameters.values()
        if dataclasses.is_dataclass(made_by) or parameter.kind is parameter.KEYWORD_ONLY
    }


def _names(made_by):
    """All names that `resolve` takes."""
    for name, value in _defaults(made_by).items():
        yield from [f'{name}.{inner}' for inner in _names(value)] if dataclasses.is_dataclass(value) else [name]


def _unknown(given, made_by):
    names = list(_names(made_by))
    return UserError(given, 'is not a setting', f'take one of {", ".join(names)}' if names else 'leave it out')


def _value(name, default, text, given):
    """The value of a text. UserError if the setting does not take it; none is accepted if it is the default."""
    value = text if isinstance(default, str) else in_type_of(default, parse_value(text))
    takes, is_one = LIMITS.get(name) or _like(default)
    if not (value is None and default is None) and not is_one(value):
        raise UserError(given, f'it takes {takes}', f'the default is {default}')
    return value


def _like(default):
    """What a setting takes, in words and as a function that checks a value; by the type of its default."""
    if isinstance(default, bool):
        return 'true or false', lambda value: isinstance(value, bool)
    if isinstance(default, str):
        return 'a word', bool
    if isinstance(default, tuple) and all(type(item) is int for item in default):
        return (
            f'{len(default)} integers of at least 1, as in (1,2)',
            lambda value: (
                _are_numbers(value) and len(value) == len(default) and all(type(n) is int and n >= 1 for n in value)
            ),
        )
    if isinstance(default, tuple):
        return f'{len(default)} numbers, as in (1,2)', lambda value: _are_numbers(value) and len(value) == len(default)
    if isinstance(default, int):
        return 'an integer of at least 1', lambda value: type(value) is int and value >= 1
    if isinstance(default, float):
        return 'a number of at least 0', lambda value: type(value) is float and 0 <= value < float('inf')
    return 'none, a number, a word or numbers', lambda value: type(value) in (*NUMBERS, str) or _are_numbers(value)


def _are_numbers(value):
    return isinstance(value, tuple) and all(type(item) in NUMBERS for item in value)


def _is_range(value):
    return _are_numbers(value) and len(value) == 2 and 0 < value[0] <= value[1]


ABOVE_ZERO = 'a number above 0', lambda value: type(value) in NUMBERS and 0 < value < float('inf')
SHARE = 'a number between 0 and 1', lambda value: type(value) is float and 0 < value < 1
FROM_ZERO = 'an integer of at least 0', lambda value: type(value) is int and value >= 0
LIMITS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # settings for which the type of the default is not enough
    'crop_area': ('two numbers, 0 < low <= high <= 1', lambda value: _is_range(value) and value[1] <= 1),
    'crop_ratio': ('two numbers, 0 < low <= high', _is_range),
    'decoder_zeros': FROM_ZERO,
    'flip': ('a number from 0 to 1', lambda value: type(value) is float and 0 <= value <= 1),
    'fps': ABOVE_ZERO,
    'held_back': SHARE,
    'held_out': SHARE,
    'image_size': ('an integer of at least 1', lambda value: type(value) is int and value >= 1),
    'max_depth': ABOVE_ZERO,
    'metric_scale': ('the path of a JSON file', lambda value: isinstance(value, str)),
    'num_classes': FROM_ZERO,
    'penalties': ('numbers above 0', lambda value: _are_numbers(value) and value and min(value) > 0),
    'radius': ABOVE_ZERO,
    'scored': ('val or test', lambda value: value in ('val', 'test')),
    'split_number': ('1, 2 or 3', lambda value: value in (1, 2, 3)),
    'temperature': ABOVE_ZERO,
    'warmup': FROM_ZERO,
}

"""Settings of a dataset, a task or a schedule: which there are, their defaults, and others from the command line."""

import ast
import dataclasses
import inspect

from rvm_jax.errors import UserError


def resolve(made_by, overrides, prefix):
    """{name: value} of all settings, those in overrides ({name: text}) with the value that the text stands for.

    made_by is what takes the settings: a class or a function (those that it takes by keyword only), a dataclass (its
    fields), or an instance of one, whose values are then the defaults. A setting that is itself a dataclass is set by
    its own settings, as in 'settings.top_k'. prefix is what the command calls it all, such as 'data'.
    UserError if there is no such setting, or it takes other values.
    """
    values = _defaults(made_by)
    inner = {name: {} for name, value in values.items() if dataclasses.is_dataclass(value)}
    for name, text in overrides.items():
        outer, _, rest = name.partition('.')
        if rest and outer in inner:
            inner[outer][rest] = text
        elif name in values and name not in inner:
            values[name] = _like(values[name], text, f'--set {prefix}.{name}={text}')
        else:
            raise _unknown(f'--set {prefix}.{name}={text}', made_by)
    for name, texts in inner.items():
        changed = resolve(values[name], texts, f'{prefix}.{name}')
        values[name] = dataclasses.replace(values[name], **changed)
    return values


def parse(text):
    """The value that a text stands for: true, false, none, a number, a tuple such as (0.3,1.0); else the text."""
    text = text.strip()
    if text.lower() in ('true', 'false', 'none'):
        return ast.literal_eval(text.capitalize())
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value


def _defaults(made_by):
    if dataclasses.is_dataclass(made_by) and not isinstance(made_by, type):
        return {field.name: getattr(made_by, field.name) for field in dataclasses.fields(made_by) if field.init}
    taken = inspect.signature(made_by).parameters.values()
    if not dataclasses.is_dataclass(made_by):
        taken = [parameter for parameter in taken if parameter.kind is parameter.KEYWORD_ONLY]
    return {parameter.name: parameter.default for parameter in taken}


def _names(made_by):
    """Every name that `resolve` takes."""
    for name, value in _defaults(made_by).items():
        yield from [f'{name}.{inner}' for inner in _names(value)] if dataclasses.is_dataclass(value) else [name]


def _unknown(given, made_by):
    names = list(_names(made_by))
    return UserError(given, 'there is no such setting', f'take one of {", ".join(names)}' if names else 'leave it out')


def _like(default, text, given):
    """The value of a text, of the kind of the default; where that is None, anything but true and false."""
    value = text if isinstance(default, str) else parse(text)
    if type(default) is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(default) is float and type(value) is int:
        value = float(value)
    if not _is_like(default, value):
        expected = f'a number like {default}' if type(default) in (int, float) else f'something like {default}'
        raise UserError(given, f'it is {default} by default, and this is no such value', f'give {expected}')
    return value


def _is_like(default, value):
    if default is None:
        return value is None or type(value) in (int, float, str) or _are_numbers(value)
    if isinstance(default, tuple):
        return _are_numbers(value) and len(value) == len(default)
    if type(default) in (int, float) and default >= 0:
        return type(value) is type(default) and 0 <= value < float('inf')
    return type(value) is type(default)


def _are_numbers(value):
    return isinstance(value, tuple) and all(type(item) in (int, float) for item in value)

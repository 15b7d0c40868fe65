"""Values of a Hugging Face config.json, checked for type and size: it comes from outside."""

import functools
import math
import os
from typing import Any

from rvm_jax.conversion.export_folder import LARGEST, MOST_LAYERS, read_json
from rvm_jax.errors import UserError
from rvm_jax.terminal import say

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
PROCESSOR, NESTED = 'processor_config.json', 'image_processor'  # as transformers 5 writes it, with more than pictures
# What of it changes the numbers that the encoder is given, and its value where it is left out.
ARITHMETIC = {
    'do_normalize': True,
    'image_mean': None,
    'image_std': None,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
}
ACTIVATIONS = {
    'gelu': 'erf',
    'gelu_python': 'erf',
    'gelu_new': 'tanh',
    'gelu_fast': 'tanh',
    'gelu_pytorch_tanh': 'tanh',
    'quick_gelu': 'quick',
    'silu': 'silu',
    'swish': 'silu',
}
DEFAULTS = {  # what a config.json leaves out, as many released ones do: same for all model types, then what differs
    'num_channels': 3,
    'hidden_size': 768,
    'intermediate_size': 3072,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'image_size': 224,
    'patch_size': 16,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-6,
    'mlp_ratio': 4,
    'qkv_bias': True,
    'use_swiglu_ffn': False,
}


class Config:
    """A config.json with the defaults of its model type; each call returns one value or raises UserError."""

    def __init__(self, path, values, defaults):
        self.path, self.values = path, DEFAULTS | defaults | values

    def integer(self, key: str, low: int = 1, high: int = LARGEST) -> int:
        """A whole number in [low, high]; a square size may be given as [size, size]."""
        value = self.values[key]
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        return self._checked(key, value, type(value) is int and low <= value <= high, f'a number in [{low}, {high}]')

    def number(self, key: str, low: float, high: float) -> float:
        """A number in [low, high]."""
        value = self.values[key]
        return float(self._checked(key, value, _is_number(value, low, high), f'a number in [{low:g}, {high:g}]'))

    def boolean(self, key: str) -> bool:
        """True or false."""
        return self._checked(key, self.values[key], type(self.values[key]) is bool, 'true or false')

    def activation(self) -> str:
        """Our name of its activation."""
        value = self.values['hidden_act']
        known = isinstance(value, str) and value in ACTIVATIONS
        return ACTIVATIONS[self._checked('hidden_act', value, known, f'one of {", ".join(ACTIVATIONS)}')]

    def sizes(self) -> dict[str, Any]:
        """What all families state alike, as `image_architecture.make` wants it."""
        self._checked('num_channels', self.integer('num_channels'), self.values['num_channels'] == 3, '3')
        width, heads = self.integer('hidden_size'), self.integer('num_attention_heads')
        self._checked('num_attention_heads', heads, width % heads == 0, f'a divisor of hidden_size={width}')
        return {
            'width': width,
            'layers': self.integer('num_hidden_layers', high=MOST_LAYERS),
            'heads': heads,
            'mlp': self.integer('intermediate_size'),
            'patch_size': self.integer('patch_size'),
            'activation': self.activation(),
            'epsilon': self.number('layer_norm_eps', 0, 0.1),
        }

    def image_size(self) -> dict[str, Any]:
        """{'image_size': pixels along a side}, of at least one patch."""
        return {'image_size': self.integer('image_size', low=self.integer('patch_size'))}

    def _checked(self, key, value, is_right, wanted):
        if not is_right:
            shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
            raise UserError(self.path, f'its {CONFIG} has {key}={shown}, not {wanted}', 'download it again')
        return value


def read_config(folder: str) -> tuple[str, dict[str, Any]]:
    """(model type, the values that describe the image encoder) of a folder; UserError if it is not of Hugging Face."""
    path = os.path.join(folder, CONFIG)
    values = read_json(path)
    model_type = values.get('model_type')
    if model_type == 'rvm':
        raise UserError(folder, 'is an RVM export, not an image encoder alone', 'name it where a model is wanted')
    if not isinstance(model_type, str):
        raise UserError(
            path, 'does not have a model_type', 'give the folder of an image encoder as transformers writes it'
        )
    vision = values.get('vision_config', values)
    if not isinstance(vision, dict):
        raise UserError(path, 'has a vision_config that is not an object', 'download it again')
    return model_type, vision


def read_processor(folder: str) -> tuple[str, dict]:
    """(where, values) of what prepares pictures for the encoder in a folder; ('', {}) where no file says so.

    The order is that of transformers: the image_processor in processor_config.json, then preprocessor_config.json. If
    both are there and differ in what counts, one line names both and says which is used.
    """
    nested, flat = (_read_optional(os.path.join(folder, name)) for name in (PROCESSOR, PREPROCESSOR))
    if nested is not None and NESTED in nested:
        values = nested[NESTED]
        if not isinstance(values, dict):
            path = os.path.join(folder, PROCESSOR)
            raise UserError(path, f'has a {NESTED} that is not an object', 'download it again')
        if flat is not None:
            _say_differences(folder, *(tuple(repr(one.get(key)) for key in ARITHMETIC) for one in (values, flat)))
        return f'{NESTED} in {PROCESSOR}', values
    return (PREPROCESSOR, flat) if flat is not None else ('', {})


@functools.lru_cache(maxsize=64)  # a folder is opened more than once
def _say_differences(folder, nested, flat):
    pairs = zip(ARITHMETIC, nested, flat, strict=True)
    different = '; '.join(f'{key} {used}, not {other}' for key, used, other in pairs if used != other)
    if different:
        say(f'{folder}: {PROCESSOR} and {PREPROCESSOR} differ; the first is used, as in transformers: {different}')


def _read_optional(path):
    return read_json(path) if os.path.lexists(path) else None  # a link to nothing is a download that broke off


def normalization(folder: str) -> dict[str, tuple[float, ...]]:
    """{'mean', 'std'} of pixels in [0, 1], from `read_processor`; {} without one; UserError if it makes no sense.

    Rescaling other than by 1/255 is folded into them.
    """
    where, values = read_processor(folder)
    if not where:
        return {}
    path = os.path.join(folder, where.rpartition(' ')[2])
    chosen = {key: default if values.get(key) is None else values[key] for key, default in ARITHMETIC.items()}
    for key in ('do_normalize', 'do_rescale'):
        if type(chosen[key]) is not bool:
            raise UserError(path, f'has {key}={chosen[key]!r}', 'true or false is wanted')
    if not _is_number(chosen['rescale_factor'], 1e-6, LARGEST):
        raise UserError(path, f'has rescale_factor={chosen["rescale_factor"]!r}', 'a number above 0 is wanted')
    found = {'mean': (0.0,) * 3, 'std': (1.0,) * 3} if not chosen['do_normalize'] else {}
    for name, low in (('mean', -LARGEST), ('std', 1e-6)) if chosen['do_normalize'] else ():
        value = chosen[f'image_{name}']
        value = [value] * 3 if type(value) in (int, float) else value
        if value is None:
            continue
        if not (isinstance(value, list) and len(value) == 3 and all(_is_number(v, low, LARGEST) for v in value)):
            raise UserError(path, f'has image_{name}={value!r}', 'three numbers are wanted, one for each color')
        found[name] = tuple(float(v) for v in value)
    scale = 255 * chosen['rescale_factor'] if chosen['do_rescale'] else 255.0  # of ours, which are in [0, 1]
    if math.isclose(scale, 1, rel_tol=1e-6):
        return found
    if len(found) < 2:
        reason = f'rescales by {scale / 255:g} and does not say image_mean and image_std'
        raise UserError(path, reason, 'write down both, so that they fit each other')
    return {name: tuple(v / scale for v in value) for name, value in found.items()}


def _is_number(value, low, high):
    return type(value) in (int, float) and low <= value <= high  # which is wrong for NaN

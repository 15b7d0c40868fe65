"""How the weights of an image encoder are named in files, and how they become ours; one Layout each way of naming."""

import dataclasses
import math
import re
from collections.abc import Container, Iterable

import numpy as np

from rvm_jax.conversion import mapping
from rvm_jax.conversion.export_folder import LARGEST
from rvm_jax.conversion.weight_files import Weights
from rvm_jax.errors import UserError
from rvm_jax.models import param_names

FUSED = {  # one array that holds several, stacked in the rows that are its outputs
    'attention/qkv/': ('attention/query/', 'attention/key/', 'attention/value/'),
    'mlp/gate_and_in/': ('mlp/gate/', 'mlp/dense_in/'),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way of naming the weights of a family."""

    family: str
    marks: tuple[str, ...]  # keys by which it is told from the layouts after it: one is enough
    table: tuple[tuple[str, str], ...]  # key -> our name, see `mapping.translate`; 'weight' is put right afterwards
    ignored: dict[str, str]  # pattern of keys that are not wanted -> why
    prefixes: tuple[str, ...] = ('',)  # before keys, as the file may hold a model around the encoder


# Original checkpoints of DINOv2, DINOv3 and MAE share the names of timm's ViT.
TIMM = (
    ('cls_token', 'cls_token'),
    ('pos_embed', 'position_table'),
    ('patch_embed.proj.*', 'patch_embed/*'),
    ('norm.*', 'norm/*'),
    ('blocks.#.norm1.*', 'layers/#/attention_norm/*'),
    ('blocks.#.norm2.*', 'layers/#/mlp_norm/*'),
    ('blocks.#.attn.qkv.*', 'layers/#/attention/qkv/*'),
    ('blocks.#.attn.proj.*', 'layers/#/attention/out/*'),
    ('blocks.#.ls1.gamma', 'layers/#/attention_scale/scale'),
    ('blocks.#.ls2.gamma', 'layers/#/mlp_scale/scale'),
    ('blocks.#.mlp.fc1.*', 'layers/#/mlp/dense_in/*'),
    ('blocks.#.mlp.fc2.*', 'layers/#/mlp/dense_out/*'),
    ('blocks.#.mlp.w3.*', 'layers/#/mlp/dense_out/*'),
)


def projections(start: str) -> tuple[tuple[str, str], ...]:
    """Rows of a table for the four matrices of attention, whose keys begin with start, as newer Hugging Face models."""
    ours = {'q_proj': 'query', 'k_proj': 'key', 'v_proj': 'value', 'o_proj': 'out'}
    return tuple((f'{start}{theirs}.*', f'layers/#/attention/{name}/*') for theirs, name in ours.items())


def identify(layouts: Iterable[Layout], keys: Container[str]) -> tuple[Layout | None, str]:
    """(layout, prefix) of the first layout that keys have a mark of, or (None, '')."""
    for layout in layouts:
        for prefix in layout.prefixes:
            if any(prefix + mark in keys for mark in layout.marks):
                return layout, prefix
    return None, ''


def read_named(
    weights: Weights, layout: Layout, prefix: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """{our name: float32 array} of Weights in a layout, for an encoder whose {our name: shape} is shapes.

    Raises UserError, as `param_names.compare`, if a key is neither used nor ignored, or if one is missing or misshapen.
    """
    ours, unknown = _sort(layout, prefix, weights.shapes)
    arrays = weights.read(list(ours))
    named: dict[str, np.ndarray] = {}
    for key, name in ours.items():
        parts = _split(name, arrays.pop(key), shapes)
        if parts.keys() & named.keys():  # a second array for the same place
            unknown.append(key)
        named.update(parts)
    named = {name: _fit(name, array, shapes.get(name)) for name, array in named.items()}
    found = {name: array.shape for name, array in named.items()} | {key: weights.shapes[key] for key in unknown}
    param_names.compare(shapes, found, weights.path)
    return named


def read_one(weights: Weights, prefix: str, key: str) -> np.ndarray:
    """The float32 array of one key behind a prefix."""
    return weights.read([prefix + key])[prefix + key]


def stripped(weights: Weights, prefix: str) -> dict[str, tuple[int, ...]]:
    """{key without the prefix: shape}."""
    return {key.removeprefix(prefix): shape for key, shape in weights.shapes.items()}


def _sort(layout, prefix, keys):
    """({key: our name}, unknown keys), without those that are ignored."""
    ours, unknown = {}, []
    for key in _not_ignored(layout, prefix, keys):
        renamed, _ = mapping.translate({key.removeprefix(prefix): None}, layout.table)
        if renamed:
            ours[key] = _named_as_ours(*renamed)
        else:
            unknown.append(key)
    return ours, unknown


def _not_ignored(layout, prefix, keys):
    """Keys that no pattern to be ignored fits, be it inside the encoder or around it."""
    ignored = tuple((pattern, '') for pattern in layout.ignored)
    inner = {key: key.removeprefix(prefix) for key in keys}
    _, wanted = mapping.translate(dict.fromkeys([*keys, *inner.values()]), ignored)
    return [key for key in keys if key in wanted and inner[key] in wanted]


def _named_as_ours(name):
    name = name.replace('.', '/')  # what a '*' stood for
    parent, _, last = name.rpartition('/')
    if last != 'weight':
        return name
    return f'{parent}/scale' if parent.endswith('norm') else f'{parent}/kernel'


def _split(name, array, shapes):
    """{name: array} of one array, or of those that are fused in it, without a key bias that is defined as zero."""
    for fused, parts in FUSED.items():
        if fused in name and array.ndim and len(array) % len(parts) == 0:
            rows = len(array) // len(parts)
            names = [name.replace(fused, part) for part in parts]
            split = {part: array[i * rows : (i + 1) * rows] for i, part in enumerate(names)}
            return {part: rows for part, rows in split.items() if part in shapes or not part.endswith('key/bias')}
    return {name: array}


def _fit(name, array, shape):
    """The array as ours where it fits: kernels transposed, heads taken apart, leading axes of one gone."""
    if shape is None:
        return array
    if name.endswith('kernel'):
        if array.ndim == 4 and array.shape[1] == 3 and array.shape[2] == array.shape[3]:  # a convolution, OIHW
            array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
        inputs = len(shape) - 1 if name.endswith('out/kernel') else 1  # axes of the heads are on one side or the other
        matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
        return array.T.reshape(shape) if array.T.shape == matrix else array.T
    if name.endswith('bias'):
        return array.reshape(shape) if array.shape == (math.prod(shape),) else array
    is_row = array.ndim <= 3 and array.size == math.prod(shape) and array.shape[-1:] == tuple(shape[-1:])
    return array.reshape(shape) if is_row else array


def original_sizes(weights: Weights, prefix: str) -> dict[str, int]:
    """Sizes of an original checkpoint from its shapes, as `image_architecture.make` wants them, but for the heads.

    Raises UserError if they cannot be read.
    """
    shapes = stripped(weights, prefix)
    try:
        width, _, patch_size, _ = shapes['patch_embed.proj.weight']
        hidden = shapes.get('blocks.0.mlp.fc1.weight') or shapes['blocks.0.mlp.w3.weight'][::-1]
        sizes = {'width': width, 'layers': _blocks(shapes), 'mlp': hidden[0], 'patch_size': patch_size}
        if 'pos_embed' in shapes:
            sizes['image_size'] = math.isqrt(shapes['pos_embed'][1] - 1) * patch_size
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(weights.path, f'sizes cannot be read: {error} is missing or misshapen', 'check it') from error
    wrong = [f'{name}={size}' for name, size in sizes.items() if not 1 <= size <= LARGEST]
    if wrong:
        raise UserError(weights.path, f'its shapes say {", ".join(wrong)}', 'give the file as it was released')
    return sizes


def num_registers(weights: Weights, prefix: str, key: str) -> int:
    """How many registers (1, R, D) an original checkpoint has under a key, 0 without it."""
    shape = stripped(weights, prefix).get(key, ())
    return shape[1] if len(shape) == 3 else 0


def _blocks(shapes):
    return len({match[1] for key in shapes if (match := re.match(r'blocks\.(\d+)\.', key))})

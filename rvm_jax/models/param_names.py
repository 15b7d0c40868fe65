"""Parameters as a flat dict of named arrays, and the comparison of two such dicts.

Names are paths joined by '/', with stacked layers taken apart: 'encoder/layers/3/attention/query/kernel'.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models.architecture import HOW_USED

STACK = '/blocks/'  # models/layers.py: Stack keeps its layers under this attribute, on a leading axis
SHOWN = 6  # names of each kind that an error lists


def to_named(model: nnx.Module) -> dict[str, np.ndarray]:
    """All parameters of a model as {name: numpy array}, one entry for each layer of a stack."""
    return tree_named(nnx.state(model))


def tree_named(params: Any) -> dict[str, np.ndarray]:
    """{name: numpy array} of a tree of parameters, see `to_named`."""
    named = {}
    for name, array in _flat(params).items():
        array = np.asarray(array)
        if STACK in name:
            named.update({name.replace(STACK, f'/{i}/'): layer for i, layer in enumerate(array)})
        else:
            named[name] = array
    return named


def named_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of `to_named`, also for a model without arrays."""
    return tree_shapes(nnx.state(model))


def tree_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a tree of parameters, or of their shapes."""
    shapes = {}
    for name, leaf in _flat(params).items():
        if STACK in name:
            shapes.update({name.replace(STACK, f'/{i}/'): leaf.shape[1:] for i in range(leaf.shape[0])})
        else:
            shapes[name] = leaf.shape
    return shapes


def fingerprint(model: Any, tap: str = 'core') -> str:
    """16 hex digits that identify a model and where its features are taken: architecture, tap and all weights."""
    sizes = {k: v for k, v in dataclasses.asdict(model.architecture).items() if k not in HOW_USED}
    facts = json.dumps([sizes, tap], sort_keys=True)
    digest = hashlib.sha256(facts.encode())
    for name, array in sorted(to_named(model).items()):
        digest.update(f'{name} {array.shape} {array.dtype}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def from_named(model: nnx.Module, named: dict[str, np.ndarray], origin: str | os.PathLike) -> Any:
    """The (abstract) model with its parameters taken from named arrays.

    Raises UserError, naming origin and both sides, unless names and shapes agree exactly.
    """
    compare(named_shapes(model), {name: array.shape for name, array in named.items()}, origin)
    graphdef, params = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(jax.numpy.asarray, fill(params, named)))


def fill(params: Any, named: dict[str, np.ndarray]) -> Any:
    """A tree of parameters, or of their shapes, with named arrays in place; the layers of a stack together."""

    def leaf(path, old):
        name = path_name(path)
        if STACK not in name:
            return named[name]
        return np.stack([named[name.replace(STACK, f'/{i}/')] for i in range(old.shape[0])])

    return jax.tree_util.tree_map_with_path(leaf, params)


def compare(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], origin: str | os.PathLike) -> None:
    """Raise UserError listing what is missing, unexpected or of another shape; both are {name: shape}."""
    both = sorted(expected.keys() & found.keys())
    kinds = (
        [f'missing {name} {expected[name]}' for name in sorted(expected.keys() - found.keys())],
        [f'unexpected {name} {found[name]}' for name in sorted(found.keys() - expected.keys())],
        [f'{n} is {found[n]}, expected {expected[n]}' for n in both if tuple(found[n]) != tuple(expected[n])],
    )
    shown = [line for lines in kinds for line in lines[:SHOWN] + _rest(lines)]
    if shown:
        raise UserError(
            origin, f'its arrays do not fit the model: {"; ".join(shown)}', 'check that this is the right file'
        )


def _rest(lines):
    return [f'and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []


def path_name(path: Sequence[Any]) -> str:
    """A JAX key path as 'a/b/c', without the '.value' that NNX adds at the end."""
    names = [str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path]
    return '/'.join(names[:-1] if names[-1] == 'value' else names)


def _flat(state):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}

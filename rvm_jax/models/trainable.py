"""Which parameters train. Frozen is a choice made here, by path, and not a kind of model."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from rvm_jax.models.adapters import STATISTICS
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.layers import Precision
from rvm_jax.models.param_names import path_name

Tree = dict[str, Any]  # nested, of arrays or of their shapes


def split(tree: Tree, arch: Architecture) -> tuple[Tree, Tree, Tree]:
    """A model's parameters as (trained, statistics, frozen): nested dicts that `joined` puts together again.

    Frozen is everything under 'encoder' where the architecture names an imported one.
    """
    trained: Tree = {}
    statistics: Tree = {}
    held: Tree = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        if arch.is_frozen and path[0] == 'encoder':
            held[path] = leaf
        else:
            (statistics if path[-1] in STATISTICS else trained)[path] = leaf
    unflatten = traverse_util.unflatten_dict
    return unflatten(trained), unflatten(statistics), unflatten(held)


def joined(*trees: Tree) -> Tree:
    """Nested dicts of different leaves as one."""
    return traverse_util.unflatten_dict({p: x for tree in trees for p, x in traverse_util.flatten_dict(tree).items()})


def of_model(state: Tree, held: Tree) -> Tree:
    """All parameters of the model that a train state trains."""
    return joined(state['params'], state.get('statistics', {}), held)


def in_use(state: Tree) -> list[Tree]:
    """The trees of a train state that are the model to evaluate and to export: the average of weights if it has one."""
    return [state[name] for name in ('ema' if 'ema' in state else 'params', 'statistics') if name in state]


def stored(held: Tree, precision: Precision) -> Tree:
    """Shapes of frozen parameters with the dtype that they are kept in.

    Where all products are in bfloat16 the kernels are kept so: they are only ever multiplied, and rounded before.
    """
    half = precision.tokens == precision.block == jnp.bfloat16

    def leaf(path, x):
        is_half = half and path_name(path).endswith('/kernel')
        return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16 if is_half else x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, held)


def place(arrays: Tree, abstract: Tree) -> Tree:
    """Whole arrays of this process on its devices, in the dtype and where `abstract` says; each gives its part.

    arrays may lack some of the entries at the top of `abstract`.
    """

    def leaf(x, wanted):
        x = x.astype(wanted.dtype)
        return jax.make_array_from_callback(x.shape, wanted.sharding, lambda part: x[part])

    return {name: jax.tree.map(leaf, tree, abstract[name]) for name, tree in arrays.items()}

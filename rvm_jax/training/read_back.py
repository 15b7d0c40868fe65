"""Opens a step that was just written, before it counts as saved.

A save may end without an error and leave nothing that can be restored: in some places Orbax does not find its own
files, and a version of it may write what it does not read. A run would learn that only when it resumes. So the first
save of each start is read as a resume reads it: the tree with every shape and type, the numbers of one array, and the
data position. One array is enough: what is wrong with a place, a disk or a version is wrong for all of them, and all
bytes have checksums. To read everything would cost as much time and memory as the whole state again.
"""

import json
import os
from typing import Any

import jax
import numpy as np


def sample(state: Any) -> tuple[str, np.ndarray] | None:
    """(path, numbers) of the smallest array of a state that this process holds whole; None if there is none."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    whole = [(leaf.size, path, leaf) for path, leaf in leaves if leaf.is_fully_replicated]
    if not whole:
        return None
    _, path, leaf = min(whole, key=lambda item: item[0])
    return path_name(path), np.asarray(leaf)


def check(step_folder: str, tree: dict, known: tuple[str, np.ndarray] | None, data: dict) -> None:
    """Raise OSError unless a step can be read: the tree (as `describe` gives it), the sample, and the data position."""
    try:
        reason = _difference(step_folder, tree, known, data)
    except Exception as error:  # whatever Orbax and its libraries raise: a resume would meet it
        reason = str(error).partition('\n')[0][:200] or type(error).__name__
    if reason:
        raise OSError(0, f'it cannot be read back: {reason}')


def path_name(path: tuple) -> str:
    """The path of a leaf as text."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def describe(tree: Any) -> dict[str, dict]:
    """Each leaf's path, with its shape and dtype."""
    return {
        path_name(path): {'shape': list(leaf.shape), 'dtype': str(leaf.dtype)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _difference(step_folder, tree, known, data):
    import orbax.checkpoint as ocp
    from etils import epath

    place, handler = epath.Path(os.path.join(step_folder, 'state')), ocp.PyTreeCheckpointHandler()
    saved = handler.metadata(place).tree
    if describe(saved) != tree:
        return 'the saved arrays have other names, shapes or types than the state'
    if known is not None:
        name, numbers = known
        wanted = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if path_name(path) == name else ocp.PLACEHOLDER, saved
        )
        layout = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        read = handler.restore(place, args=ocp.args.PyTreeRestore(item=wanted, restore_args=layout))
        [found] = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(read) if path_name(path) == name]
        if not np.array_equal(found, numbers, equal_nan=numbers.dtype.kind == 'f'):
            return f'the saved values of {name} differ from the state'
    position = ocp.JsonCheckpointHandler().restore(epath.Path(os.path.join(step_folder, 'data')))
    return '' if position == json.loads(json.dumps(data)) else 'the saved data position is wrong'

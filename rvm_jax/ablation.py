"""An ablation: cells that differ from one recipe in a line or two. Recipes of ablations are in configs/ablations/."""

import dataclasses
import os
import re
import runpy
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from rvm_jax import config
from rvm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What is varied, and {cell: overrides} for it.

    An override is key=value, as --config.key=value takes it, or key*=factor, for a multiple of what the recipe has; in
    a value {cell} stands for the export folder of an earlier cell.
    """

    question: str
    cells: dict
    recipe: str = 'configs/tiny.py'


def load(path: str | os.PathLike) -> Ablation:
    """The Ablation of a file; raises UserError if it is not an ablation."""
    found = runpy.run_path(config.find_recipe(path))
    if 'get_ablation' not in found:
        raise UserError(
            path,
            'is not an ablation recipe: it does not have get_ablation()',
            'name a file such as configs/ablations/cores.py',
        )
    return found['get_ablation']()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of an ablation: its workdir, export and probe are in `folder`."""

    name: str
    seed: int
    config: ConfigDict
    folder: str

    @property
    def workdir(self) -> str:
        """Where it trains."""
        return os.path.join(self.folder, 'train')

    @property
    def export(self) -> str:
        """Its export folder."""
        return os.path.join(self.folder, 'export')


def cells(ablation: Ablation, recipe: str, shared: Sequence[str], seeds: Iterable[int], folder: str) -> list[Cell]:
    """The Cells, in the order in which they are trained: the recipe, what all share, then each one's own overrides.

    Raises UserError or ConfigErrors for the first cell whose config is not valid.
    """
    found = []
    for seed in seeds:
        exports: dict[str, str] = {}
        for name, overrides in ablation.cells.items():
            resolved = [*shared, f'seed={seed}']
            base = config.flatten(config.load(recipe, resolved))
            resolved += [_resolved(override.format_map(exports), base) for override in overrides]
            place = os.path.join(folder, 'cells', re.sub('[^a-z0-9.]+', '_', name.lower()), f'seed_{seed}')
            found.append(Cell(name, seed, config.load(recipe, resolved), place))
            exports[name] = found[-1].export
    return found


def _resolved(override, base):
    key, _, value = override.partition('=')
    return f'{key[:-1]}={round(base[key[:-1]] * float(value))}' if key.endswith('*') else override

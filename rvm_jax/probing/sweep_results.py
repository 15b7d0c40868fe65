"""One table and one plot of the cells of an ablation."""

import os

import numpy as np

from rvm_jax.probing import results
from rvm_jax.terminal import Extras
from rvm_jax.version import version
from rvm_jax.visualization import canvas
from rvm_jax.visualization.plots import cells_plot

TABLE, PLOT, SUMMARY = 'table.md', 'plot.png', 'results.json'
REFERENCES = ('image encoder', 'random weights')  # backbones of a cell that are shown beside its model


def write_summary(question, found, folder):
    """Write them, from {cell: {seed: {backbone: {task: {'metric', 'value', ...}}}}}; returns the table as lines."""
    first = next(iter(next(iter(found.values())).values()))['model']
    header = [question] + [f'{task} {"↑" if facts["higher_is_better"] else "↓"}' for task, facts in first.items()]
    rows = []
    for backbone in ('model', *REFERENCES):
        for cell, seeds in found.items():
            if all(backbone in of_one for of_one in seeds.values()):
                name = cell if backbone == 'model' else f'{cell}: {backbone}'
                rows.append([name, *(_spread(_values(seeds, backbone, task)) for task in first)])
    panels = {
        f'{task}: {facts["metric"]} {"↑" if facts["higher_is_better"] else "↓"}': {
            cell: _values(seeds, 'model', task) for cell, seeds in found.items()
        }
        for task, facts in first.items()
    }
    canvas.write_bytes(os.path.join(folder, TABLE), results.markdown(header, rows).encode())
    results.write_json(os.path.join(folder, SUMMARY), {'question': question, 'cells': found, 'version': version()})
    plot = os.path.join(folder, PLOT)
    Extras('the table does not need it').attempt('plot', lambda: canvas.write_png(plot, cells_plot(question, panels)))
    return [*results.aligned(header, rows), f'plot: {os.path.join(folder, PLOT)}']


def _values(seeds, backbone, task):
    return [of_one[backbone][task]['value'] for of_one in seeds.values()]


def _spread(values):
    """The mean, and the standard deviation over seeds where there are several."""
    mean = results.number(float(np.mean(values)))
    return mean if len(values) == 1 else f'{mean} ± {results.number(float(np.std(values, ddof=1)))}'

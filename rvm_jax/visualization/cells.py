"""Scores of the cells of an ablation, a panel a task."""

import numpy as np

COLUMNS = 4


def cells_plot(question, panels):
    """The plot of {title: {cell: [score of each seed]}}, uint8 HWC RGB.

    Dots are seeds, the line goes through their means.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), dpi=130, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, cells) in zip(axes.flat, panels.items(), strict=False):
        places = np.arange(len(cells))
        axis.plot(places, [np.mean(values) for values in cells.values()], '-', color='#1f77b4', linewidth=1.5)
        for place, values in zip(places, cells.values(), strict=True):
            axis.plot([place] * len(values), values, 'o', color='#1f77b4', markersize=5)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(places, cells, fontsize=9)
        axis.set_xlim(-0.5, len(cells) - 0.5)
        axis.tick_params(labelsize=9, length=0)
        axis.grid(axis='y', color='#dadce0', linewidth=0.7)
        for side in ('top', 'right', 'left'):
            axis.spines[side].set_visible(False)
    figure.supxlabel(question, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

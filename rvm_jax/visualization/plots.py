"""Plots: the loss curve, for light and dark pages, and the scores of an ablation, with a panel for each task."""

from collections.abc import Mapping, Sequence

import numpy as np

from rvm_jax.visualization import figures

# Colors of the line, the marks, text and grid, for light (False) and dark pages.
COLORS = {False: ('#1f77b4', '#d65f0e', '#3c4043', '#dadce0'), True: ('#7ab8ea', '#ffb070', '#e3e6ea', '#3a4048')}
COLUMNS = 4  # of panels
SMOOTHING = 0.02  # share of the points that are averaged for one smoothed point


def loss_curve(
    steps: Sequence[float],
    losses: Sequence[float],
    held_out: Sequence[tuple[float, float]] = (),
    levels: Sequence[tuple[str, float]] = (),
    dark: bool = False,
) -> np.ndarray:
    """Training loss over steps on a logarithmic axis, with held-out losses and constant levels to compare with.

    held_out is a list of (step, loss); levels is a list of (name, loss), drawn as dashed lines.
    Returns uint8 HWC RGB.
    """
    line, marks, ink, faint = COLORS[dark]
    background = '#1b1f24' if dark else '#ffffff'
    with figures.new_figure(figsize=(9, 3.8), dpi=150, facecolor=background, layout='constrained') as figure:
        axes = figure.subplots()
        axes.plot(steps, losses, color=line, alpha=0.25, linewidth=0.8)
        axes.plot(*smoothed(steps, losses), color=line, linewidth=2, label='training (smoothed)')
        if len(held_out):
            axes.plot(*np.transpose(held_out), 'o-', color=marks, markersize=4, linewidth=1.4, label='held out')
        for (name, level), style in zip(levels, ('--', ':', '-.'), strict=False):
            axes.axhline(level, color=ink, linewidth=1.1, linestyle=style, label=name)
        axes.set(xlabel='step', ylabel='loss', yscale='log', facecolor=background)
        _style(axes, ink, faint)
        axes.legend(frameon=False, labelcolor=ink, fontsize=9)
        return figures.drawn(figure)


def smoothed(steps: Sequence[float], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses averaged over a sliding window, which never reaches beyond either end."""
    window = max(1, round(len(losses) * SMOOTHING))
    kernel = np.ones(window) / window
    return (
        np.convolve(np.asarray(steps, float), kernel, 'valid'),
        np.convolve(np.asarray(losses, float), kernel, 'valid'),
    )


def cells_plot(question: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> np.ndarray:
    """The plot of {title: {cell: [score of each seed]}}, uint8 HWC RGB.

    Dots are seeds, the line goes through their means.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with figures.new_figure(figsize=(3.4 * columns, 2.8 * rows), dpi=130, layout='constrained') as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, cells) in zip(axes.flat, panels.items(), strict=False):
            _panel(axis, title, cells)
        figure.supxlabel(question, fontsize=11, parse_math=False)
        return figures.drawn(figure)


def _panel(axis, title, cells):
    places = np.arange(len(cells))
    axis.plot(places, [np.mean(values) for values in cells.values()], '-', color='#1f77b4', linewidth=1.5)
    for place, values in zip(places, cells.values(), strict=True):
        axis.plot([place] * len(values), values, 'o', color='#1f77b4', markersize=5)
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.set_xticks(places, cells, fontsize=9, parse_math=False)
    axis.set_xlim(-0.5, len(cells) - 0.5)
    axis.tick_params(labelsize=9, length=0)
    axis.grid(axis='y', color='#dadce0', linewidth=0.7)
    for side in ('top', 'right', 'left'):
        axis.spines[side].set_visible(False)


def _style(axes, ink, faint):
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.minorticks_off()
    axes.tick_params(colors=ink, labelsize=9, length=0)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    axes.grid(color=faint, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color(faint)

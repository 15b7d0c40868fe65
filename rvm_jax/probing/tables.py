"""Tables of probes: many probes side by side, as papers print them, and the cells of an ablation.

`compare` makes a row a model and a column a task, with a normalized average; `write_sweep` a row a cell.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from rvm_jax import terminal
from rvm_jax.errors import UserError
from rvm_jax.probing import results
from rvm_jax.probing.registry import ATTENTIVE, BENCHMARKS, POOLED, column, find_metric, title
from rvm_jax.probing.results import Score
from rvm_jax.storage import atomic
from rvm_jax.version import version
from rvm_jax.visualization import canvas
from rvm_jax.visualization.plots import cells_plot

SWEEP_TABLE, SWEEP_PLOT, SWEEP_RESULTS = 'table.md', 'plot.png', 'results.json'
REFERENCES = ('image encoder', 'random weights')  # backbones of a cell that are shown beside its model


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of models. lacking says which models lack which tasks."""

    labels: list[str]
    columns: list[tuple[str, str, list[str], list[bool]]]  # title, metric, text of each row, which rows are the best
    lacking: list[str]

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        titles, metrics, texts, _ = zip(*self.columns, strict=True)
        rows = [['', *metrics], *zip(self.labels, *texts, strict=True)]
        return terminal.columns([['model', *titles], *rows])

    def markdown(self) -> str:
        """The table in Markdown, the best of each column bold."""
        marked = [
            [f'**{text}**' if best else text for text, best in zip(texts, are_best, strict=True)]
            for _, _, texts, are_best in self.columns
        ]
        header = ['model', *(f'{title} {metric}' for title, metric, _, _ in self.columns)]
        return terminal.markdown(header, zip(self.labels, *marked, strict=True))


def compare(found: Sequence[Score]) -> Table:
    """The Table of some scores.

    Several seeds of a model become mean ± standard deviation. UserError if probes of one task differ in more than model
    and seed, or if one was given twice.
    """
    _check_settings(found)
    rows = _rows(found)
    labels = _labels(rows)
    metrics = {score.task: (score.metric, score.higher_is_better) for score in found}
    columns_of_papers = [column(task, readout) for task in BENCHMARKS for readout in (ATTENTIVE, *POOLED)]
    metrics = {task: metrics[task] for task in [*columns_of_papers, *metrics] if task in metrics}
    means = {
        label: {task: float(np.mean([score.value for score in seeds])) for task, seeds in row.items()}
        for label, row in zip(labels, rows, strict=True)
    }
    lacking = {
        label: [title(task) for task in metrics if not np.isfinite(values.get(task, np.nan))]
        for label, values in means.items()
    }
    columns = [_column(task, *metrics[task], rows) for task in metrics]
    if len(labels) > 1 and not any(lacking.values()):
        averages = normalized_average(means, {task: higher for task, (_, higher) in metrics.items()})
        texts = [f'{averages[label]:.1f}' for label in labels]
        columns.append(('normalized', 'average (%) ↑', texts, _best(texts, averages.values(), True)))
    return Table(labels, columns, [f'{label} lacks {", ".join(tasks)}' for label, tasks in lacking.items() if tasks])


def normalized_average(
    values: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """{model: mean over tasks of its value relative to the best model, in percent}.

    values is {model: {task: number}}, higher_is_better {task: bool}. Relative is value / best, or best / value if lower
    is better, so the result depends on which models are compared. Raises UserError if a model lacks a task or has no
    finite value for it.
    """
    for model, found in values.items():
        for task in higher_is_better:
            if not np.isfinite(found.get(task, np.nan)):
                raise UserError(model, f'does not have a value for {task}', 'leave out this model or this task')
    averages = {}
    for model, found in values.items():
        shares = []
        for task, higher in higher_is_better.items():
            best = (max if higher else min)(other[task] for other in values.values())
            value, best = (found[task], best) if higher else (best, found[task])
            shares.append(1.0 if value == best else value / best)  # an error of 0 is the best, not 0 / 0
        averages[model] = 100 * float(np.mean(shares))
    return averages


def write_sweep(question: str, found: Mapping[str, Mapping[int, Mapping]], folder: str) -> list[str]:
    """Write table, plot and results of the cells of an ablation; returns the lines to print.

    found is {cell: {seed: {backbone: {task: {'metric', 'value', 'higher_is_better'}}}}}.
    """
    first = next(iter(next(iter(found.values())).values()))['model']
    header = [question] + [f'{task} {arrow(facts["higher_is_better"])}' for task, facts in first.items()]
    rows = []
    for backbone in ('model', *REFERENCES):
        for cell, seeds in found.items():
            if all(backbone in of_one for of_one in seeds.values()):
                name = cell if backbone == 'model' else f'{cell}: {backbone}'
                rows.append([name, *(_spread(_values(seeds, backbone, task)) for task in first)])
    panels = {
        f'{task}: {facts["metric"]} {arrow(facts["higher_is_better"])}': {
            cell: _values(seeds, 'model', task) for cell, seeds in found.items()
        }
        for task, facts in first.items()
    }
    plot = os.path.join(folder, SWEEP_PLOT)
    atomic.write_bytes(os.path.join(folder, SWEEP_TABLE), terminal.markdown(header, rows).encode())
    extras = terminal.Extras('the table does not need it')
    extras.attempt('plot', lambda: canvas.write_png(plot, cells_plot(question, panels)))
    written = {'question': question, 'cells': found, 'version': version()}
    results.write_json(os.path.join(folder, SWEEP_RESULTS), written)
    drawn = [f'plot: {plot}'] if os.path.exists(plot) else []
    return [*terminal.columns([header, *rows]), *drawn]


def number(value: float) -> str:
    """A score as it is printed: three decimals below ten, one above; – if it is not known."""
    if not math.isfinite(value):
        return '–'
    return f'{value:.3f}' if abs(value) < 10 else f'{value:.1f}'


def arrow(higher_is_better: bool) -> str:
    """The sign beside a metric that says which way is better."""
    return '↑' if higher_is_better else '↓'


def _check_settings(found):
    first: dict[str, Score] = {}
    for score in found:
        other = first.setdefault(score.task, score)
        for key in other.settings | score.settings:
            before, now = other.settings.get(key, 'unknown'), score.settings.get(key, 'unknown')
            if before != now:
                raise UserError(
                    f'{other.folder} and {score.folder}',
                    f'{score.task} was probed with {key} {before} and {now}, which do not compare',
                    'leave one out, or probe it again',
                )  # fmt: skip


def _rows(found):
    """[{task: scores over seeds}, ...], one for each model and kind of readout, in the order given.

    Scores without a kind of readout, such as those of propagated labels, are in the rows of both kinds.
    """
    kinds: dict[tuple, set[bool]] = collections.defaultdict(set)
    for score in found:
        kinds[_identity(score.model)] |= {score.streaming} - {None}
    rows: dict[tuple, dict[str, dict[int, Score]]] = {}
    for score in found:
        model = _identity(score.model)
        for streaming in sorted(kinds[model]) or [False]:
            if score.streaming in (None, streaming):
                _add_seed(rows.setdefault((model, streaming), {}).setdefault(score.task, {}), score)
    return [{task: list(seeds.values()) for task, seeds in row.items()} for row in rows.values()]


def _add_seed(seeds, score):
    """Put a score into {seed: score}. UserError if the seed is there; random weights may be the floor of two demos."""
    known = seeds.get(score.seed)
    if known and not (score.model.is_random and known.value == score.value):
        raise UserError(
            f'{known.folder} and {score.folder}',
            f'both are {score.task} of one model with seed {score.seed}', 'leave one out',
        )  # fmt: skip
    seeds[score.seed] = score


def _identity(model):
    """What distinguishes a model: its fingerprint, so that it may be moved; its path if its weights are random."""
    return model.fingerprint or model.path, model.tap, model.is_random, model.precision


def _labels(rows):
    """Names of the rows: the end of a model's path, as long as needed to differ from the other paths.

    If two models have the same path, such as two steps of a workdir, their fingerprints are added.
    """
    firsts = [next(iter(row.values()))[0] for row in rows]
    names = _short({score.model.path for score in firsts})
    labels = []
    for score, row in zip(firsts, rows, strict=True):
        streaming = any(one.streaming for seeds in row.values() for one in seeds)
        labels.append(score.model.label(names[score.model.path], streaming))
    return [
        f'{label} [{score.model.fingerprint}]' if labels.count(label) > 1 and score.model.fingerprint else label
        for label, score in zip(labels, firsts, strict=True)
    ]


def _short(paths):
    """{path: its last parts, as few as distinguish it from the others}."""
    short = {}
    for path in paths:
        parts = path.split(os.sep)
        others = [other.split(os.sep) for other in paths if other != path]
        counts = range(1, len(parts))
        count = next((n for n in counts if parts[-n:] not in [other[-n:] for other in others]), len(parts))
        short[path] = os.sep.join(parts[-count:])
    return short


def _column(task, name, higher_is_better, rows):
    """(title, metric, text of each row, which are the best) of a task."""
    metric = find_metric(name)
    values = [[metric.factor * score.value for score in row.get(task, ())] for row in rows]
    means = [float(np.mean(seeds)) if seeds else np.nan for seeds in values]
    texts = [f'{mean:.{metric.decimals}f}' if np.isfinite(mean) else '–' for mean in means]
    best = _best(texts, means, higher_is_better)
    for row, seeds in enumerate(values):
        if len(seeds) > 1 and np.isfinite(means[row]):
            texts[row] += f' ± {np.std(seeds, ddof=1):.{metric.decimals}f}'
    return title(task), f'{metric.heading} {arrow(higher_is_better)}', texts, best


def _best(texts, values, higher_is_better):
    """Which texts are the best of several values; equal texts share it."""
    known = [(value, text) for value, text in zip(values, texts, strict=True) if np.isfinite(value)]
    best = (max if higher_is_better else min)(known)[1] if len(known) > 1 else None
    return [text == best for text in texts]


def _values(seeds, backbone, task):
    return [of_one[backbone][task]['value'] for of_one in seeds.values()]


def _spread(values):
    """The mean, and the standard deviation over seeds if there are several."""
    mean = number(float(np.mean(values)))
    return mean if len(values) == 1 else f'{mean} ± {number(float(np.std(values, ddof=1)))}'

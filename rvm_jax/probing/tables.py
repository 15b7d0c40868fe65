"""Scores of many probes in one table, as papers print it: a row a model, a column a task, and a normalized average."""

import collections
import dataclasses
import os

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing import results
from rvm_jax.probing.metrics import summary

TITLES = {  # of the public benchmarks, in the order of their columns; the demo's tasks follow under their own names
    'ssv2': 'SSv2', 'kinetics400': 'Kinetics-400', 'kinetics700': 'Kinetics-700', 'imagenet': 'ImageNet',
    'places365': 'Places365', 'inaturalist2018': 'iNaturalist 2018', 'waymo': 'Waymo',
    'perception_test': 'Perception Test', 'scannet': 'ScanNet', 'realestate10k': 'RealEstate10K',
    'nuscenes': 'nuScenes', 'davis': 'DAVIS', 'davis_stability': 'DAVIS, long', 'jhmdb': 'JHMDB', 'vip': 'VIP',
}  # fmt: skip
METRICS = {  # name, factor and decimals, as the papers print them
    'top1': ('top-1 (%)', 100, 1),
    'mean_iou': ('mIoU (%)', 100, 1),
    'miou': ('mIoU (%)', 100, 1),
    'average_jaccard': ('AJ (%)', 100, 1),
    'J&F': ('J&F (%)', 100, 1),
    'pck_0.1': ('PCK@0.1 (%)', 1, 1),  # in percent already
    'pck_0.5': ('PCK@0.5 (%)', 1, 1),
    'stability': ('relative J&F', 1, 3),
    'abs_rel': ('AbsRel × 10', 10, 2),
    'epe': ('EPE', 1, 3),
    'rpe_tr': ('RPE (mm)', 1, 2),
    'share_of_motion': ('share of motion', 1, 3),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns are (title, metric, text of each row, which rows are the best); lacking names what no row should lack."""

    labels: list
    columns: list
    lacking: list

    def lines(self):
        """Lines for a terminal."""
        titles, metrics, texts, _ = zip(*self.columns, strict=True)
        rows = [['', *metrics], *zip(self.labels, *texts, strict=True)]
        return results.aligned(['model', *titles], rows)

    def markdown(self):
        """In Markdown, the best of each column bold."""
        marked = [
            [f'**{text}**' if best else text for text, best in zip(texts, are_best, strict=True)]
            for _, _, texts, are_best in self.columns
        ]
        header = ['model', *(f'{title} {metric}' for title, metric, _, _ in self.columns)]
        return results.markdown(header, zip(self.labels, *marked, strict=True))


def compare(found):
    """The Table of `scores.Score`s.

    Several seeds of a model become mean ± standard deviation. UserError where probes of one task differ in more than
    model and seed, or one was given twice.
    """
    _check_settings(found)
    rows = _rows(found)
    labels = _labels(rows)
    metrics = {score.task: (score.metric, score.higher_is_better) for score in found}
    metrics = {task: metrics[task] for task in [*TITLES, *metrics] if task in metrics}
    means = {
        label: {task: float(np.mean([score.value for score in seeds])) for task, seeds in row.items()}
        for label, row in zip(labels, rows, strict=True)
    }
    lacking = {
        label: [TITLES.get(task, task) for task in metrics if not np.isfinite(values.get(task, np.nan))]
        for label, values in means.items()
    }
    columns = [_column(task, *metrics[task], rows) for task in metrics]
    if len(labels) > 1 and not any(lacking.values()):
        averages = summary.normalized_average(means, {task: higher for task, (_, higher) in metrics.items()})
        texts = [f'{averages[label]:.1f}' for label in labels]
        columns.append(('normalized', 'average (%) ↑', texts, _best(texts, averages.values(), True)))
    return Table(labels, columns, [f'{label} lacks {", ".join(tasks)}' for label, tasks in lacking.items() if tasks])


def _check_settings(found):
    first = {}
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
    """[{task: scores over seeds}, ...], one a model and kind of readout, in the order given.

    Scores without a kind of readout, such as those of propagated labels, are in the rows of both kinds.
    """
    kinds = collections.defaultdict(set)
    for score in found:
        kinds[_identity(score.model)] |= {score.streaming} - {None}
    rows = {}
    for score in found:
        model = _identity(score.model)
        for streaming in sorted(kinds[model]) or [False]:
            if score.streaming in (None, streaming):
                seeds = rows.setdefault((model, streaming), {}).setdefault(score.task, {})
                known = seeds.get(score.seed)
                if known and not (score.model.is_random and known.value == score.value):
                    raise UserError(
                        f'{known.folder} and {score.folder}',
                        f'both are {score.task} of one model with seed {score.seed}', 'leave one out',
                    )  # fmt: skip
                seeds[score.seed] = score
    return [{task: list(seeds.values()) for task, seeds in row.items()} for row in rows.values()]


def _identity(model):
    """What tells a model from others: its fingerprint, so that it may be moved; of random weights their path."""
    return model.fingerprint or model.path, model.tap, model.is_random, model.precision


def _labels(rows):
    """Names of the rows: the end of a model's path, as much of it as tells it from other paths.

    Other weights at the same path, such as another step of a workdir, are told by their fingerprint.
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
    """{path: its last parts, no more of them than tell it from the others}."""
    short = {}
    for path in paths:
        parts = path.split(os.sep)
        others = [other.split(os.sep) for other in paths if other != path]
        counts = range(1, len(parts))
        count = next((n for n in counts if parts[-n:] not in [other[-n:] for other in others]), len(parts))
        short[path] = os.sep.join(parts[-count:])
    return short


def _column(task, metric, higher_is_better, rows):
    """(title, metric, text of each row, which are the best) of a task."""
    name, factor, decimals = METRICS.get(metric, (metric, 1, 3))
    values = [[factor * score.value for score in row.get(task, ())] for row in rows]
    means = [float(np.mean(seeds)) if seeds else np.nan for seeds in values]
    texts = [f'{mean:.{decimals}f}' if np.isfinite(mean) else '–' for mean in means]
    best = _best(texts, means, higher_is_better)
    for number, seeds in enumerate(values):
        if len(seeds) > 1 and np.isfinite(means[number]):
            texts[number] += f' ± {np.std(seeds, ddof=1):.{decimals}f}'
    return TITLES.get(task, task), f'{name} {"↑" if higher_is_better else "↓"}', texts, best


def _best(texts, values, higher_is_better):
    """Which texts say the best of several values; those that are printed alike share it."""
    known = [(value, text) for value, text in zip(values, texts, strict=True) if np.isfinite(value)]
    best = (max if higher_is_better else min)(known)[1] if len(known) > 1 else None
    return [text == best for text in texts]

"""Measure how good a model's features are: train a small readout on them, or propagate labels without training.

Examples:
    rvm probe --model runs/demo/export --task demo --output runs/demo/probe
    rvm probe --model rvm_l.npz --task folder --data my_videos --output probes/mine     # your own labels
    rvm probe --model rvm_l.npz --task ssv2 --data data/ssv2 --output probes/ssv2
    rvm probe --model dinov2-large --task davis --data data/DAVIS --output probes/davis
    rvm probe --model rvm_l.npz --task waymo --data data/waymo --output probes/waymo_tracker \\
        --set task.recurrent=true --set schedule.steps=20000

`folder` reads your own labels. --data is a folder with a subfolder of videos for each class, or a folder with train/
and val/ that have such subfolders, or a CSV file with lines path,label or path,label,split. Without a split, a fifth of
each class is held out.

The model is never trained. `demo` needs no data: it renders clips with known truth and predicts the truth from features
of the model, of its image encoder alone, and of random weights, in minutes on a CPU for a tiny model. `quick` is a part
of it: linear readouts of the model alone, in two minutes. The folder gets results.json, table.md with a table row,
curves and pictures of predictions. After a stop, the same command resumes: within the training of a readout (its
evaluation starts again), after the last video that was propagated, or after the last finished model of the demo.
`rvm compare` joins folders into one table.
"""

import argparse
import os
import sys

from rvm_jax.errors import UserError
from rvm_jax.probing.registry import ATTENTIVE, BENCHMARKS, POOLED, SUITES
from rvm_jax.probing.settings import setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm probe`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument(
        '--task', required=True, help=f'one of: {", ".join((*SUITES, *BENCHMARKS))}; or MODULE:NAME of your own'
    )
    parser.add_argument('--data', help='folder of the dataset (folder: or a CSV file; demo, quick: none)')
    parser.add_argument(
        '--train-data', help='folder of the dataset for training, if it is another one (perception_test: MOVi-E)'
    )
    parser.add_argument('--output', required=True, help='folder for results and pictures')
    parser.add_argument(
        '--tap', default='core',
        help='core (default), core:BLOCKS, encoder, encoder:BLOCKS, encoder@FRACTION of its depth',
    )  # fmt: skip
    parser.add_argument(
        '--readout', nargs='+', metavar='NAME',
        help=f'one or more of {", ".join((ATTENTIVE, *POOLED))}, for tasks whose answer is a class: a module that is '
        'trained by steps, logistic regression or k-nearest neighbors of averaged features (default: attentive; '
        'folder: all three)',
    )  # fmt: skip
    parser.add_argument('--random-weights', action='store_true', help='give the model random weights: the floor')
    parser.add_argument('--seed', type=int, default=0, help='of the readout, and of random weights (0)')
    parser.add_argument(
        '--set', dest='given', action='append', default=[], metavar='KEY=VALUE', type=setting,
        help='change a published setting: task.streaming=true, data.stride=1, schedule.batch_size=16; '
        'a wrong name lists all settings; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--precision', default='float32', help='number format of the model: float32 (default), official_mixed, bf16'
    )


def run(args: argparse.Namespace) -> None:
    """Run one probe and print its result."""
    if args.seed < 0:
        raise UserError(f'--seed {args.seed}', 'must not be below 0', 'take 0, for example')
    from rvm_jax.terminal import progress_bars

    with progress_bars() as progress:
        lines = _suite(args, progress) if args.task in SUITES else _benchmark(args, progress)
    for line in lines:
        print(line)


def _benchmark(args, progress):
    from rvm_jax.probing.backbone import open_backbone
    from rvm_jax.probing.registry import open_benchmark
    from rvm_jax.probing.runner import run_benchmark

    benchmark = open_benchmark(args.task, args.data, args.train_data, args.given, args.readout)
    backbone = open_backbone(
        args.model, step=args.step, tap=args.tap, precision=args.precision,
        random_seed=args.seed if args.random_weights else None,
    )  # fmt: skip
    found = run_benchmark(benchmark, backbone, args.output, seed=args.seed, progress=progress)
    lines = _results(args, benchmark, found)
    for part, failed in found['left_out'].items():
        if failed:
            lines.append(f'{part}: {len(failed)} clips could not be read and were left out, such as {failed[0]}')
    return lines


def _results(args, benchmark, found):
    """Lines about the score, or about those of several readouts and of own videos."""
    from rvm_jax.probing.registry import readout_title, title
    from rvm_jax.probing.results import SPLIT
    from rvm_jax.probing.tables import number
    from rvm_jax.terminal import columns

    where = f'all scores and pictures in {args.output}'
    if 'readouts' not in found:
        return [f'{args.task}: {found["metric"]} {number(found["value"])}, {where}']
    lines, metric = [], benchmark.metric
    train, evaluated = benchmark.data['trained'], benchmark.data['evaluated']
    if 'videos' in evaluated:
        lines.append(
            f'{evaluated["classes"]} classes, {train["videos"]} videos for training, {evaluated["videos"]} held out, '
            f'listed in {os.path.join(args.output, SPLIT)}'
        )
    rows = [(title(args.task), metric.heading)]
    rows += [(readout_title(name), metric.text(one['value'])) for name, one in found['readouts'].items()]
    rows += [('always the commonest class', metric.text(found['scores']['chance']))]
    return [*lines, *columns(rows), where]


def _suite(args, progress):
    from rvm_jax.probing.demo.demo_suite import run_demo, table
    from rvm_jax.terminal import columns

    given = {'--data': args.data, '--train-data': args.train_data, '--set': args.given}
    given |= {'--readout': args.readout}
    given |= {'--tap': args.tap != 'core', '--random-weights': args.random_weights}
    for flag, value in given.items():
        if value:
            raise UserError(f'{flag} with --task {args.task}', 'the suite has settings of its own', 'leave it out')
    found = run_demo(
        args.model, args.output, suite=args.task, step=args.step, seed=args.seed, precision=args.precision,
        progress=progress,
    )  # fmt: skip
    header, rows = table(found['results'])
    return [*columns([header, *rows]), f'pictures and all scores in {args.output}']


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['probe', *sys.argv[1:]])

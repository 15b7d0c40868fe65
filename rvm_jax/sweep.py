"""Train the cells of an ablation, probe each of them, and write one table and one plot.

Example:
    rvm sweep --config configs/ablations/source_frames.py --output runs/source_frames

Each cell is an ordinary workdir, OUTPUT/cells/CELL/seed_N/train, with its export and its probe next to it; after a
stop, the same command resumes. If neither recipe nor command name data, the videos of `rvm demo` are rendered and used.
Each cell is probed with the quick suite: linear readouts on rendered clips, two minutes on two CPU cores. With
--task demo the table also has the other tasks and baselines, which takes a quarter of an hour for a cell. For the
ablation of the paper, on real data:

    rvm sweep --config configs/ablations/source_frames.py --output runs/frames --recipe configs/rvm_s.py \\
        --config.data.path=shards --config.steps=250_000 --task ssv2 --data data/ssv2
"""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rvm_jax.errors import UserError
from rvm_jax.probing.registry import SUITES
from rvm_jax.probing.settings import setting

if TYPE_CHECKING:
    from rvm_jax.ablation import Cell
    from rvm_jax.probing.registry import OpenBenchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm sweep`."""
    parser.add_argument('--config', required=True, metavar='ABLATION', help='such as configs/ablations/cores.py')
    parser.add_argument('--output', required=True, help='folder for cells, table and plot')
    parser.add_argument('--recipe', help='recipe that all cells start from (default: the one that the ablation names)')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0], help='each cell is trained once with each seed (0)'
    )
    parser.add_argument('--task', default='quick', help='probe of every cell, as in `rvm probe` (quick)')
    parser.add_argument('--data', help='dataset of the probe')
    parser.add_argument('--train-data', help='dataset for training its readout, if it is another one')
    parser.add_argument(
        '--set', dest='given', action='append', default=[], metavar='KEY=VALUE', type=setting,
        help='a setting of the probe, as in `rvm probe`; may be repeated',
    )  # fmt: skip
    parser.add_argument_group('any key of the recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it in every cell'
    )


def run(args: argparse.Namespace) -> None:
    """Train, export and probe every cell, then write the table and the plot."""
    from rvm_jax import ablation
    from rvm_jax.probing.tables import write_sweep
    from rvm_jax.training.progress import format_seconds

    benchmark = _open_benchmark(args)  # first, so that its mistakes are reported before anything is trained
    found = ablation.load(args.config)
    recipe, shared = args.recipe or found.recipe, list(args.overrides)
    if any(override.startswith('seed=') for override in shared):
        raise UserError('--config.seed', 'a sweep trains each cell with each of --seeds', 'use --seeds instead')
    shared += _demo_videos(recipe, shared, args.output)
    cells = ablation.cells(found, recipe, shared, args.seeds, args.output)
    results: dict[str, dict[int, dict]] = {}
    longest = 0.0  # seconds of a cell that was trained in this start
    for number, cell in enumerate(cells, 1):
        left = f', about {format_seconds(longest * (len(cells) - number + 1))} left' if longest else ''
        print(f'cell {number}/{len(cells)}: {found.question} {cell.name}, seed {cell.seed}{left}', flush=True)
        began, is_trained = time.monotonic(), os.path.exists(cell.export)
        train(cell)
        results.setdefault(cell.name, {})[cell.seed] = probe(args.task, benchmark, cell, args.output)
        longest = longest if is_trained else max(longest, time.monotonic() - began)
    for line in write_sweep(found.question, results, args.output):
        print(line)


def _open_benchmark(args):
    """The benchmark of every cell; None for a suite of rendered clips."""
    if args.task not in SUITES:
        from rvm_jax.probing import registry

        return registry.open_benchmark(args.task, args.data, args.train_data, args.given)
    for flag, value in {'--data': args.data, '--train-data': args.train_data, '--set': args.given}.items():
        if value:
            fix = 'leave it out; videos to train on are --config.data.path'
            raise UserError(f'{flag} with --task {args.task}', 'the suite has settings and clips of its own', fix)
    return None


def _demo_videos(recipe, overrides, output):
    """Overrides that train on the videos of `rvm demo`, which are rendered; none if the recipe has data."""
    from rvm_jax import config
    from rvm_jax.synthetic import demo_videos

    data = config.load(recipe, overrides).data
    if data.path or data.mixture:
        return []
    videos = os.path.join(output, 'videos')
    added = demo_videos.overrides(videos)
    loaded = config.load(recipe, [*overrides, *added])
    demo_videos.render(videos, seed=loaded.seed, fps=loaded.data.fps)
    return added


def train(cell: 'Cell') -> None:
    """Train and export a cell; a finished one stays as it is."""
    from rvm_jax import pretrained
    from rvm_jax.training import loop
    from rvm_jax.training.run_record import run_facts

    if os.path.exists(cell.export):
        origin = os.path.join(cell.workdir, 'config.json')
        if pretrained.config_of(pretrained.read_run(cell.workdir), origin).to_dict() != cell.config.to_dict():
            raise UserError(cell.folder, 'was trained with another config', 'choose another --output')
        return
    loop.train(cell.config, cell.workdir, pretrained.load)
    facts = run_facts(cell.workdir, pretrained.read_run(cell.workdir), cell.config, cell.config.steps)
    pretrained.save_pretrained(pretrained.load(cell.workdir), cell.export, facts=facts)


def probe(task: str, benchmark: 'OpenBenchmark | None', cell: 'Cell', output: str) -> dict[str, dict[str, Any]]:
    """{backbone: {task: {'metric', 'value', ...}}} of a cell; without a benchmark, of the suite named by task."""
    from rvm_jax.probing.backbone import open_backbone
    from rvm_jax.probing.demo.demo_suite import run_demo
    from rvm_jax.probing.results import by_column
    from rvm_jax.probing.runner import run_benchmark
    from rvm_jax.terminal import progress_bars

    folder = os.path.join(cell.folder, 'probe')
    with progress_bars() as progress:
        if benchmark is not None:
            found = run_benchmark(benchmark, open_backbone(cell.export), folder, seed=cell.seed, progress=progress)
            return {'model': by_column(benchmark.name, found)}
        clips = os.path.join(output, 'clips')
        found = run_demo(cell.export, folder, suite=task, seed=cell.seed, clips=clips, progress=progress)
    return found['results']


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['sweep', *sys.argv[1:]])

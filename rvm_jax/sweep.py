"""Train the cells of an ablation, probe each, and put them into one table and one plot.

Example:
    rvm sweep --config configs/ablations/source_frames.py --output runs/source_frames

Each cell is an ordinary workdir, OUTPUT/cells/CELL/seed_N/train, with its export and its probe beside it; the same
line resumes where it was stopped. Where neither recipe nor command name data, the videos of `rvm demo` are rendered and
used; each cell is probed with the demo suite: about a quarter of an hour a cell on two CPU cores. Of a public task the
table has the cells' models alone. For the paper's, on real data:

    rvm sweep --config configs/ablations/source_frames.py --output runs/frames --recipe configs/rvm_s.py \\
        --config.data.path=shards --config.steps=250_000 --task ssv2 --data data/ssv2
"""

import os
import sys

from rvm_jax.errors import UserError
from rvm_jax.probing.settings import setting


def add_arguments(parser):
    """Flags of `rvm sweep`."""
    parser.add_argument('--config', required=True, metavar='ABLATION', help='such as configs/ablations/cores.py')
    parser.add_argument('--output', required=True, help='folder for cells, table and plot')
    parser.add_argument('--recipe', help='that all cells start from (default: what the ablation names)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='train each cell once with each (0)')
    parser.add_argument('--task', default='demo', help='probe of every cell, as of `rvm probe` (demo)')
    parser.add_argument('--data', help='dataset of the probe')
    parser.add_argument('--train-data', help='dataset that its readout is trained on, if it is another')
    parser.add_argument(
        '--set', dest='given', action='append', default=[], metavar='KEY=VALUE', type=setting,
        help='a setting of the probe, as of `rvm probe`; may be repeated',
    )  # fmt: skip
    parser.add_argument_group('any key of the recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it in every cell'
    )


def run(args):
    """Train, export and probe every cell, then write the table and the plot."""
    from rvm_jax import ablation, config
    from rvm_jax.probing.open_benchmark import open_setup
    from rvm_jax.probing.sweep_results import write_summary
    from rvm_jax.synthetic import demo_videos

    given = {'--data': args.data, '--train-data': args.train_data, '--set': args.given}
    for flag, value in given.items():
        if args.task == 'demo' and value:
            fix = 'leave it out; videos to train on are --config.data.path'
            raise UserError(f'{flag} with --task demo', 'the suite has settings and clips of its own', fix)
    # What the probe lacks is said before anything is trained.
    setup = None if args.task == 'demo' else open_setup(args.task, args.data, args.train_data, args.given)
    found = ablation.load(args.config)
    recipe, shared = args.recipe or found.recipe, list(args.overrides)
    if any(override.startswith('seed=') for override in shared):
        raise UserError('--config.seed', 'a sweep trains each cell with each of --seeds', 'say --seeds instead')
    data = config.load(recipe, shared).data
    if not (data.path or data.mixture):
        videos = os.path.join(args.output, 'videos')
        shared += demo_videos.overrides(videos)
        loaded = config.load(recipe, shared)
        demo_videos.render(videos, seed=loaded.seed, fps=loaded.data.fps)
    cells = ablation.cells(found, recipe, shared, args.seeds, args.output)
    results = {}
    for number, cell in enumerate(cells, 1):
        print(f'cell {number}/{len(cells)}: {found.question} {cell.name}, seed {cell.seed}', flush=True)
        train(cell)
        results.setdefault(cell.name, {})[cell.seed] = probe(setup, cell, args.output)
    for line in write_summary(found.question, results, args.output):
        print(line)


def train(cell):
    """Train and export a cell; what is finished stays as it is."""
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


def probe(setup, cell, output):
    """{backbone: {task: {'metric', 'value', ...}}} of a cell; without a `Setup` that of the demo suite."""
    from rich.progress import Progress

    from rvm_jax.probing.backbone import open_backbone
    from rvm_jax.probing.demo.demo_suite import run_demo
    from rvm_jax.probing.runner import run_benchmark

    folder = os.path.join(cell.folder, 'probe')
    with Progress(disable=not sys.stdout.isatty()) as progress:
        if setup is not None:
            found = run_benchmark(setup, open_backbone(cell.export), folder, seed=cell.seed, progress=progress)
            return {'model': {setup.name: found}}
        clips = os.path.join(output, 'clips')
        found = run_demo(cell.export, folder, seed=cell.seed, clips=clips, progress=progress)
    return found['results']


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['sweep', *sys.argv[1:]])

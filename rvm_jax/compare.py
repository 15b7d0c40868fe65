"""Put many probes into one table, as in a paper: one row for each model, one column for each task.

Examples:
    rvm compare runs/a/probe runs/b/probe            # two demos: the models, their image encoders, random weights
    rvm compare probes/* --output table.md           # rvm_l_ssv2, rvm_l_davis, dinov2_ssv2, dinov2_davis, ...

Takes folders that `rvm probe` wrote. Several seeds of a model become mean ± standard deviation; readouts that see one
frame at a time have their own rows. Shares are in percent and AbsRel is multiplied by ten, as papers print them. The
last column is the mean over tasks of each value relative to the best model; it needs every model to have every task,
and it depends on which models are compared. Probes of one task with different protocol, schedule or data are refused,
because their scores do not compare.
"""

import argparse
import os
import sys

from rvm_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm compare`."""
    parser.add_argument('probes', nargs='+', metavar='PROBE_FOLDER', help='the --output of an `rvm probe`')
    parser.add_argument('--output', metavar='FILE.md', help='write the table in Markdown, with the best values bold')


def run(args: argparse.Namespace) -> None:
    """Print the table, and write it to --output."""
    if args.output and os.path.isdir(args.output):
        raise UserError(f'--output {args.output}', 'is a folder', 'name a file in it, such as table.md')
    from rvm_jax.probing import results, tables
    from rvm_jax.visualization import canvas

    table = tables.compare([score for folder in args.probes for score in results.read_scores(folder)])
    for line in table.lines():
        print(line)
    if table.lacking:
        print(f'rvm compare: no normalized average: {"; ".join(table.lacking)}', file=sys.stderr)
    if args.output:
        os.makedirs(os.path.dirname(args.output) or '.', exist_ok=True)
        canvas.write_bytes(args.output, table.markdown().encode())
        print(f'table in {args.output}')


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['compare', *sys.argv[1:]])

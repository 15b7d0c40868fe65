"""Put many probes into the table of a paper: a row a model, a column a task.

Examples:
    rvm compare runs/a/probe runs/b/probe            # two demos: the models, their image encoders, random weights
    rvm compare probes/* --output table.md           # rvm_l_ssv2, rvm_l_davis, dinov2_ssv2, dinov2_davis, ...

Takes folders that `rvm probe` wrote. Several seeds of a model become mean ± standard deviation; readouts that see one
frame at a time have rows of their own. Shares are shown in percent and AbsRel tenfold, as papers print them. The last
column is the mean over tasks of each value relative to the best model's: it is there where every model has every task,
and depends on which models are compared. Probes of one task whose protocol, schedule or data differ are refused, since
their figures do not compare.
"""

import os
import sys

from rvm_jax.errors import UserError


def add_arguments(parser):
    """Flags of `rvm compare`."""
    parser.add_argument('probes', nargs='+', metavar='PROBE_FOLDER', help='the --output of an `rvm probe`')
    parser.add_argument('--output', metavar='FILE.md', help='write the table in Markdown, the best values bold')


def run(args):
    """Print the table, and write it where asked."""
    if args.output and os.path.isdir(args.output):
        raise UserError(f'--output {args.output}', 'is a folder', 'name a file in it, say table.md')
    from rvm_jax.probing import scores, tables
    from rvm_jax.visualization import canvas

    table = tables.compare([score for folder in args.probes for score in scores.read(folder)])
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

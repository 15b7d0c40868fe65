"""Say whether this machine, or every process of a launch, is ready to train, what will be slow, and how to mend it.

Examples:
    rvm doctor
    rvm doctor --config configs/rvm_l.py --data videos --workdir /shared/runs/l
    rvm doctor --json > doctor.json
    launch/local.sh --processes 2 -- doctor

Each line is green (ready), yellow (works, but slowly or not for long) or red (training will not work), with the fix
below it. Without --config it takes configs/rvm_s.py on an accelerator and configs/tiny.py on a CPU. Nothing stays on
the disk. The exit code is 0, or 2 if a line is red.
"""

import contextlib
import functools
import os
import socket
import sys

from rvm_jax.errors import UserError
from rvm_jax.version import version

RECIPES = {'cpu': 'configs/tiny.py'}
RECIPE = 'configs/rvm_s.py'


def add_arguments(parser):
    """Flags of `rvm doctor`."""
    parser.add_argument('--config', metavar='RECIPE', help='recipe that is to be trained (default: configs/rvm_s.py, '
                        'on a CPU configs/tiny.py)')  # fmt: skip
    parser.add_argument('--data', metavar='DIR', help="videos or shards (default: the recipe's, else rendered ones)")
    parser.add_argument('--workdir', default='.', help='where the run will be (default: the current folder)')
    parser.add_argument('--json', action='store_true', help='print what was found as JSON')
    parser.add_argument_group('any key of the recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it first, as for rvm train'
    )


class NotReady(UserError):
    """Something is red."""

    def __init__(self, checks):
        super().__init__('not ready', ', '.join(checks), 'mend what is red above')


def run(args):
    """Check everything, print a line each; raises NotReady if one is red."""
    import jax  # noqa: F401 (before the processes connect)

    from rvm_jax import config as configs
    from rvm_jax.distributed.connect import connect

    given = configs.load(args.config, args.overrides) if args.config else configs.default()
    with connect(given.hosts) as hosts:
        red = _examine(args, hosts)
    if red:
        raise NotReady(red)


def _examine(args, hosts):
    """Names of the checks that are red, the same in all processes."""
    from rvm_jax.checkup.report import Report

    report = Report(hosts, socket.gethostname(), is_json=args.json)
    with _stdout_kept(args.json), report:
        _check_all(args, hosts, report)
    report.end({'version': version(), 'processes': hosts.count})
    return report.red


@contextlib.contextmanager
def _stdout_kept(is_wanted):
    """Have what libraries print to standard output, as gloo does, go to standard error: JSON stands there alone."""
    if not is_wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _check_all(args, hosts, report):
    from rvm_jax import config as configs
    from rvm_jax.checkup import decoding, machine, steps
    from rvm_jax.checkup.finding import Finding
    from rvm_jax.conversion.frozen import resolve
    from rvm_jax.data.loader import shared_bytes

    report.check('packages', machine.check_packages)
    devices = report.check('devices', machine.check_devices)
    if not devices.values:  # JAX does not start
        return
    report.check('driver', machine.check_driver)
    report.check('memory', machine.check_memory)
    path = args.config or RECIPES.get(devices.values['platform'], RECIPE)
    data = [f'data.path={args.data}', 'data.mixture=()'] if args.data else []
    config = configs.load(path, [*args.overrides, *data])
    arch, _ = resolve(config)
    report.about = {'config': path, 'workdir': args.workdir}
    report.check('recipe', lambda: Finding('recipe', 'green', f'{path}, for the lines below'))
    report.check('open files', machine.check_open_files)
    here = hosts.all_gather(report.host).count(report.host)
    room = functools.partial(machine.check_disk, args.workdir, steps.checkpoint_bytes(arch), config.checkpoint.keep)
    report.check('disk', room, 'writing and reading')

    found = {}

    def attention():
        mesh = found['mesh'] = steps.mesh_of(config)
        found['fitted'] = steps.fitting(config, arch, mesh)
        finding, found['attention'] = steps.check_attention(config, arch, mesh, hosts)
        return finding

    def a_few_steps():
        pace = found['pace'] = steps.run_steps(found['fitted'], arch, found['attention'], hosts)
        return steps.check_steps(config, found['fitted'], arch, found['mesh'], pace)

    report.check('attention', attention, 'comparing fused attention with plain attention')
    if report.all_have('attention' in found):
        report.check('network', lambda: steps.check_network(found['mesh'], hosts), 'summing over all devices')
        report.check('steps', a_few_steps, 'compiling and running a few steps')
    clips = steps.clips_here(config, found.get('fitted'), hosts.count)
    pace = found['pace'].clips / hosts.count if 'pace' in found else None
    needed = here * shared_bytes(config.data, clips)
    report.check('shared memory', functools.partial(machine.check_shared_memory, needed))
    decode = functools.partial(decoding.check_decoding, config, pace, decoding.cores_each(here))
    report.check('decoding', decode, 'decoding videos')


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['doctor', *sys.argv[1:]])

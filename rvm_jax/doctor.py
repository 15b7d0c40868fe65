"""Check whether this machine, or every process of a launch, is ready to train, what is slow, and how to fix it.

Examples:
    rvm doctor
    rvm doctor --config configs/rvm_l.py --data videos --workdir /shared/runs/l
    rvm doctor --json > doctor.json
    launch/local.sh --processes 2 -- doctor

Each line is green (ready), yellow (works, but slowly or not for long) or red (training will not work), with the fix
below it. Without --config it takes configs/rvm_s.py on an accelerator; on a CPU configs/tiny.py with
model.unroll=false, which compiles in two thirds of the time. No file stays on the disk. The exit code is 0, or 2 if a
line is red.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import socket
import sys
from typing import Any

from rvm_jax.errors import UserError
from rvm_jax.version import version

RECIPE, CPU_RECIPE = 'configs/rvm_s.py', 'configs/tiny.py'
QUICK = ['model.unroll=false']  # on a CPU, where compiling takes most of the time


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    """A check is red."""

    def __init__(self, checks: list[str]):
        super().__init__('not ready', ', '.join(checks), 'fix what is red above')


def run(args: argparse.Namespace) -> None:
    """Check everything and print a line for each check; raises NotReady if one is red."""
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
    """Send to standard error what libraries print to standard output, as gloo does, so that only JSON is there."""
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
    from rvm_jax.checkup import machine
    from rvm_jax.conversion.frozen import resolve

    report.check('packages', machine.check_packages)
    devices = report.check('devices', machine.check_devices)
    if not devices.values:  # JAX does not start
        return
    report.check('driver', machine.check_driver)
    report.check('memory', machine.check_memory)
    config = _recipe(args, devices.values['platform'], report)
    arch, _ = resolve(config)
    report.check('open files', machine.check_open_files)
    _check_workdir(args.workdir, config, arch, report)
    pace = _check_training(config, arch, hosts, report)
    _check_data(config, pace, hosts, report)


def _recipe(args, platform, report):
    """The config that is checked, with a line that names it."""
    from rvm_jax import config as configs
    from rvm_jax.checkup.finding import Finding

    is_quick = platform == 'cpu' and not args.config
    path = args.config or (CPU_RECIPE if is_quick else RECIPE)
    quick = QUICK if is_quick else []
    data = [f'data.path={args.data}', 'data.mixture=()'] if args.data else []
    config = configs.load(path, [*quick, *args.overrides, *data])
    report.about = {'config': path, 'workdir': args.workdir}
    report.check('recipe', lambda: Finding('recipe', 'green', f'{" with ".join([path, *quick])}, for the lines below'))
    return config


def _check_workdir(workdir, config, arch, report):
    from rvm_jax.checkup import machine, steps

    room = functools.partial(
        machine.check_disk, workdir, steps.checkpoint_bytes(arch, config.ema > 0), config.checkpoint.keep
    )
    report.check('disk', room, 'writing and reading')


def _check_training(config, arch, hosts, report):
    """Lines about attention, network and steps; the Pace of the recipe as it fits these devices, None if not known."""
    from rvm_jax.checkup import steps

    found: dict[str, Any] = {}

    def attention():
        mesh = found['mesh'] = steps.mesh_of(config)
        found['fitted'] = steps.fitting(config, arch, mesh)
        finding, found['attention'] = steps.check_attention(config, arch, mesh, hosts)
        return finding

    def a_few_steps():
        found['pace'] = steps.run_steps(found['fitted'], arch, found['attention'], hosts)
        return steps.check_steps(config, found['fitted'], arch, found['mesh'], found['pace'])

    report.check('attention', attention, 'comparing fused attention with plain attention')
    if report.all_have('attention' in found):
        report.check('network', lambda: steps.check_network(found['mesh'], hosts), 'summing over all devices')
        report.check('steps', a_few_steps, 'compiling and running a few steps')
    return found.get('pace')


def _check_data(config, pace, hosts, report):
    """Lines about shared memory and decoding: whether workers can feed the devices."""
    from rvm_jax.checkup import decoding, machine
    from rvm_jax.data.loader import shared_bytes

    here = hosts.all_gather(report.host).count(report.host)  # processes on this host
    needed = here * shared_bytes(config.data, math.ceil(config.batch_size / hosts.count))
    report.check('shared memory', functools.partial(machine.check_shared_memory, needed))
    clips_per_s = pace and pace.clips / hosts.count
    decode = functools.partial(decoding.check_decoding, config, clips_per_s, decoding.cores_each(here))
    report.check('decoding', decode, 'decoding videos')


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['doctor', *sys.argv[1:]])

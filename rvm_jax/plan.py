"""Say what a recipe needs before any device is paid for: memory, traffic, time, and what limits the step.

With --topology the real training step is compiled for that TPU slice (v6e:16x16), or for NVIDIA GPUs, hosts x GPUs of
each (h100:8, h100:4x8; also a100, h200, b200). None of them need be there; it takes a minute or two, and the compiler's
packages, in an environment of its own: where they are missing, the command says how to install them. With --device it
is an estimate. Several recipes, topologies or numbers of devices give a table.

Examples:
    rvm plan --config configs/rvm_s.py --device h100 --devices 8 --config.batch_size=512
    rvm plan --config configs/one_gpu.py --device rtx4090
    rvm plan --config configs/rvm_l.py --topology h100:4x8
    rvm plan --config configs/rvm_h.py --topology v6e:16x16
    rvm plan --config configs/rvm_s.py configs/rvm_l.py --topology v6e:4x4 v5e:4x4 --config.batch_size=128
"""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from rvm_jax.errors import UserError

if TYPE_CHECKING:
    from rvm_jax.planning.forecast import Forecast

LABELS = {'compute': 'compute', 'memory': 'HBM', 'links': 'interconnect', 'input': 'decoding'}
HEADER = ('recipe', 'on', 'clips a device', 'GiB a device', 'fits', 'HBM GB a clip', 'compute ms', 'HBM ms',
          'interconnect ms', 'decoding ms', 'limited by', 'step ms', 'days', 'cores')  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm plan`."""
    parser.add_argument('--config', required=True, nargs='+', metavar='PATH', help='recipes, such as configs/rvm_s.py')
    parser.add_argument('--topology', nargs='+', default=[], metavar='NAME', help='TPU slices and hosts x '
                        'GPUs: v6e:16x16 | h100:8 | h100:4x8')  # fmt: skip
    parser.add_argument('--device', nargs='+', default=[], metavar='KIND', help='estimate: v5e, v5p, v6e, a100, h100, '
                        'h200, b200, rtx3090, rtx4090, rtx5090, a10, l4, l40s, t4 (default: v6e)')  # fmt: skip
    parser.add_argument('--devices', nargs='+', type=int, default=[], metavar='N', help='estimate: how many of them '
                        '(default: one GPU; 256 TPU chips, or fewer if the batch does not divide)')  # fmt: skip
    parser.add_argument(
        '--utilization', type=float, default=0.4, help='share of the peak FLOP/s that compute reaches; memory and '
        'interconnect count at their peak rates (default: 0.4)'
    )  # fmt: skip
    parser.add_argument('--markdown', action='store_true', help='a table, as docs/scaling.md holds')
    parser.add_argument_group('any key of a recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it first, as for rvm train'
    )


def run(args: argparse.Namespace) -> None:
    """Print one forecast in a few lines, or several as a table."""
    if not 0 < args.utilization <= 1:
        raise UserError(f'--utilization {args.utilization:g}', 'is a share of the peak', 'give 0.4 or the like')
    if any(devices < 1 for devices in args.devices):
        raise UserError(f'--devices {min(args.devices)}', 'is a number of devices', 'give 1 or more')
    from rvm_jax import config as configs
    from rvm_jax.conversion.frozen import resolve

    loaded = [(path, configs.load(path, args.overrides)) for path in args.config]
    recipes = [(path, config, resolve(config)[0]) for path, config in loaded]
    forecasts = list(_forecasts(recipes, args))
    if args.markdown or len(forecasts) > 1:
        return print(as_table(forecasts, args.utilization, args.markdown))
    path, forecast = forecasts[0]
    print(as_lines(path, forecast, args.utilization))


def _forecasts(recipes, args):
    """(path, Forecast) of every recipe on every topology and every number of devices; what cannot be is found first."""
    from rvm_jax.planning import forecast
    from rvm_jax.planning.aot_process import compile_ahead

    kinds = args.device or ([] if args.topology and not args.devices else ['v6e'])
    for _, config, _ in recipes:
        for topology in args.topology:
            _check_topology(config, topology)
    estimates = [
        (path, forecast.estimated(config, arch, kind, devices))
        for path, config, arch in recipes
        for kind in kinds
        for devices in args.devices or [_usual_devices(kind, config)]
    ]
    for path, config, arch in recipes:
        for topology in args.topology:
            outcome = compile_ahead(config, topology, f'{path} for {topology}')
            yield path, forecast.compiled(config, arch, topology, outcome)
    yield from estimates


def _usual_devices(kind, config):
    from rvm_jax.planning import chips

    is_gpu = chips.platform(chips.find(kind)) == 'gpu'
    return 1 if is_gpu else math.gcd(config.batch_size // config.accumulate, 256)


def _check_topology(config, name):
    """Raise UserError, before anything is compiled, if known devices cannot share the batch evenly."""
    from rvm_jax.planning import estimate, topology

    place = topology.parse(name)
    if place.devices:
        estimate.mesh_sizes(config, place.devices, place.slices)


def as_lines(path: str, forecast: 'Forecast', utilization: float) -> str:
    """One forecast."""
    from rvm_jax.models import cost
    from rvm_jax.planning import estimate
    from rvm_jax.planning.summary import part_rows
    from rvm_jax.terminal import table

    config, arch = forecast.config, forecast.arch
    flops = estimate.flops_by_part(config, arch)
    data, fsdp = estimate.mesh_sizes(config, forecast.devices, forecast.slices)
    on = forecast.place if forecast.compile_seconds is None else (
        f'{forecast.place}, {forecast.devices} x {forecast.device_kind}')  # fmt: skip
    rows = [
        ('recipe', f'{path}: {cost.num_parameters(arch):,} parameters, {config.steps:,} steps of '
                   f'{config.batch_size:,} clips'),
        *part_rows(arch),
        ('on', f'{on}: mesh data {data} x fsdp {fsdp}, {config.batch_size // forecast.devices} clips a device'
               + (f' in {config.accumulate} parts' if config.accumulate > 1 else '')),
        ('training', f'{_number(sum(flops.values()) / 1e9)} GFLOP a clip: ' + ', '.join(
            f'{part} {_number(value / 1e9)}' for part, value in flops.items())),
        ('memory', _memory(forecast)),
        *_collectives(forecast.collectives, fsdp),
        *(_time(forecast, utilization) if forecast.seconds else []),
        ('source', _source(forecast)),
    ]  # fmt: skip
    return table(rows) + _remedies(forecast)


def _memory(forecast):
    parts = ', '.join(f'{part} {size / 2**30:.2f}' for part, size in forecast.parts.items())
    of = ' GiB' if forecast.has is None else f' of {forecast.has / 2**30:.2f} GiB usable'
    verdict = {'yes': 'fits', 'maybe': 'may fit', 'no': 'does not fit'}[forecast.fits]
    by = f', {(forecast.needs - forecast.has) / 2**30:.1f} GiB too much' if forecast.fits == 'no' else ''
    return f'{verdict}: {forecast.needs / 2**30:.2f}{of} a device{by} ({parts})'


def _collectives(kinds, fsdp):
    texts = [f'{kind} {one["count"]:,} x, {one["size"] / 1e9:.2f} GB' for kind, one in kinds.items()]
    rows = [('collectives', 'a step: ' + '; '.join(texts))] if texts else []
    if fsdp > 1 and texts and 'all-gather' not in kinds:  # the TPU compiler gathers whole tiles of 8 rows alone
        rows.append(
            (
                'note',
                f'with fsdp={fsdp}, the parts of the weights are too small for the compiler to gather them: it sums '
                'whole weights instead, which doubles the traffic; try mesh.data=-1 and a smaller mesh.fsdp',
            )
        )
    return rows


def _time(forecast, utilization):
    """Rows about seconds: at peak rates by resource, then of a step and a run."""
    step = forecast.step_seconds(utilization)
    reached, limit = forecast.seconds['compute'] / step, forecast.limit(utilization)
    rate = 'at' if limit == 'compute' else 'at its peak rate; compute reaches'
    roofline = ', '.join(f'{LABELS[name]} {_number(value * 1e3)}' for name, value in forecast.seconds.items())
    cores = ', '.join(f'{count:,} for {form}' for form, count in forecast.cores(utilization).items())
    return [
        ('roofline', f'ms a step, each at its peak rate: {roofline}'),
        ('step', f'{_number(step * 1e3)} ms; {LABELS[limit]} limits it, {rate} {reached:.0%} of the peak FLOP/s'),
        ('run', f'{_duration(forecast.days(utilization))}, {forecast.config.batch_size / step:,.0f} clips/s'),
        ('input', f'CPU cores to decode: {cores}; the hosts have {forecast.host_cores:,}'),
    ]


def _number(value):
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _duration(days):
    from rvm_jax.terminal import duration

    return f'{_number(days)} days' if days >= 1 else duration(86400 * days)


def _source(forecast):
    if forecast.compile_seconds is None:
        example = 'v6e:16x16' if forecast.device_kind.startswith('TPU') else 'h100:8'
        return f'estimate from shapes; --topology {example} compiles the real step'
    return f'compiled in {forecast.compile_seconds:.0f} s; HBM traffic counted in the program, FLOPs from shapes'


def _remedies(forecast):
    if forecast.fits != 'no':
        return ''
    if not forecast.remedies:
        return '\nnothing that a config can change makes it fit; take more devices, or larger ones'
    lines = ['\nwould fit, by estimate:']
    for changes, needs in forecast.remedies:
        flags = ' '.join(f'--config.{key}={value}' for key, value in changes)
        lines.append(f'  {flags}   ({needs / 2**30:.1f} GiB)')
    return '\n'.join(lines)


def as_table(forecasts: 'list[tuple[str, Forecast]]', utilization: float, markdown: bool) -> str:
    """Several forecasts, one line each."""
    from rvm_jax import terminal

    rows = [_cells(path, forecast, utilization) for path, forecast in forecasts]
    if markdown:
        return terminal.markdown(HEADER, rows, right=len(HEADER) - 2).rstrip('\n')
    return '\n'.join(terminal.columns([HEADER, *rows], left=2))


def _cells(path, forecast, utilization):
    name = path.rpartition('/')[2].removesuffix('.py')
    clips = forecast.config.batch_size // forecast.devices
    has = '' if forecast.has is None else f' of {forecast.has / 2**30:.1f}'
    first = (name, forecast.place, str(clips), f'{forecast.needs / 2**30:.1f}{has}', forecast.fits)
    if not forecast.seconds:
        return (*first, *['-'] * (len(HEADER) - len(first)))
    return (
        *first,
        f'{forecast.traffic / clips / 1e9:.1f}',
        *(f'{value * 1e3:,.1f}' for value in forecast.seconds.values()),
        LABELS[forecast.limit(utilization)],
        f'{forecast.step_seconds(utilization) * 1e3:,.0f}',
        f'{forecast.days(utilization):,.2f}',
        f'{next(iter(forecast.cores(utilization).values())):,}',
    )


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['plan', *sys.argv[1:]])

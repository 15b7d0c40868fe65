"""Time, memory and FLOPs of a training step: ours, and the same model computed as in the released code.

    python benchmarks/train_step.py [--sizes s b] [--precisions float32 bf16] [--batch 2] [--steps 3] [--count]

`released` is described in steps.py. `peak` is the best rate of square matrix products in the precision's dtype,
measured before and after every step. `of peak` is the rate by the FLOPs of `models/cost.py` over this peak, the median
over the steps. `cpu` is the same in CPU seconds of this process: other programs on the machine hardly change it, but it
does not count cores that wait. --count adds the compiler's own count, of our model with every layer inlined.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from steps import OURS, RELEASED, WAYS, Run, inlined, lower

from rvm_jax import config as configs
from rvm_jax.models import layers

# The released model code, S, float32, batch 2 on 2 cores: seconds and GFLOP a clip, share of the peak beside it.
RELEASED_SECONDS, RELEASED_GFLOP, RELEASED_SHARE = 8.0, 583, 0.45
GOAL = 0.75
HEADER = (
    f'{"size":>4} {"precision":>14} {"program":>8} {"clips/s":>8} {"s/clip":>8} {"median":>8} {"GFLOP/clip":>10} '
    f'{"peak GF/s":>9} {"of peak":>8} {"cpu":>6} {"compile s":>9} {"needs GB":>8} {"RSS GB":>7}'
)


def main():
    flags = parse_flags()
    print(f'{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {flags}')
    print(HEADER, flush=True)
    for size in flags.sizes:
        for precision in flags.precisions:
            compare(size, precision, flags)


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', choices=configs.SIZES, default=['s'])
    parser.add_argument('--precisions', nargs='+', choices=list(layers.PRECISIONS), default=['float32'])
    parser.add_argument('--batch', type=int, default=2, help='clips per step')
    parser.add_argument('--steps', type=int, default=3, help='timed steps, after one that is not timed')
    parser.add_argument('--attention', choices=configs.CHOICES['model.attention'], default='auto')
    parser.add_argument('--remat', choices=configs.CHOICES['model.remat'], default='dots')
    parser.add_argument('--unroll', choices=configs.CHOICES['model.unroll'], default='auto')
    parser.add_argument('--only-ours', action='store_true', help='do not measure the released method')
    parser.add_argument('--count', action='store_true', help="compile once more for the compiler's count")
    return parser.parse_args()


def compare(size, precision, flags):
    """Print the rows of one size and precision, and how they compare."""
    config = make_config(size, precision, flags)
    rows = {}
    for way in WAYS[:1] if flags.only_ours else WAYS:
        rows[way] = measure(config, way, flags)
        print_row(size, precision, way, rows[way])
    if not flags.only_ours:
        wall, cpu = (rows[OURS][clock] / rows[RELEASED][clock] for clock in ('wall', 'cpu'))
        print(f'     ours / released, relative to the peaks: {wall:.2f} of the time, {cpu:.2f} of the CPU time')
    if (size, precision, flags.batch) == ('s', 'float32', 2):
        recorded = RELEASED_GFLOP * 1e9 / RELEASED_SHARE
        print(
            f'     ours / released code as recorded ({RELEASED_SECONDS} s, {RELEASED_GFLOP} GFLOP a clip, '
            f'{RELEASED_SHARE:.0%} of the peak beside it): {rows[OURS]["wall"] / recorded:.2f} of the time, '
            f'to be at most {GOAL}; {rows[OURS]["cpu"] / recorded:.2f} of the CPU time'
        )
    if flags.count:
        _, lowered, _ = lower(inlined(config), devices=jax.devices()[:1])
        counted = lowered.compile({'xla_backend_optimization_level': 0}).cost_analysis()['flops'] / flags.batch
        work = rows[OURS]['work']
        print(f'     GFLOP a clip: {work / 1e9:.1f} analytic, {counted / 1e9:.1f} counted, {counted / work - 1:+.1%}')


def make_config(size, precision, flags):
    """The recipe of both methods."""
    config = configs.default()
    config.batch_size = flags.batch
    config.model.size, config.model.precision = size, precision
    config.model.attention, config.model.remat, config.model.unroll = flags.attention, flags.remat, flags.unroll
    return config


def print_row(size, precision, program, row):
    work = row['work']
    print(
        f'{size:>4} {precision:>14} {program:>8} {1 / row["seconds"]:8.3f} {row["seconds"]:8.3f} {row["median"]:8.3f} '
        f'{work / 1e9:10.1f} {row["peak"] / 1e9:9.1f} {work / row["wall"]:8.1%} {work / row["cpu"]:6.1%} '
        f'{row["compile"]:9.1f} {row["needs"] / 1e9:8.2f} {row["rss"] / 1e9:7.2f}',
        flush=True,
    )


def measure(config, way, flags):
    """Time a train step.

    Returns 'seconds' (fastest) and 'median' per clip, 'peak' FLOP/s, 'compile' seconds, bytes that the program 'needs'
    and that the process used ('rss'); and 'wall' and 'cpu', the FLOPs that the peak gives in the time of a clip.
    """
    reset_peak_rss()
    run = Run(config, way, jax.devices()[:1])
    peak = matmul_peak(layers.PRECISIONS[config.model.precision].block)
    peaks, seconds = [peak()], []
    for _ in range(flags.steps):
        started = clocks()
        run.step()
        seconds.append((clocks() - started) / flags.batch)
        peaks.append(peak())
    seconds, peaks = np.array(seconds), np.array(peaks)
    wall, cpu = np.median(seconds * np.maximum(peaks[:-1], peaks[1:]), axis=0)
    return {
        'seconds': seconds[:, 0].min(),
        'median': np.median(seconds[:, 0]),
        'peak': peaks[:, 0].max(),
        'wall': wall,
        'cpu': cpu,
        'work': run.flops,
        'compile': run.compile_seconds,
        'needs': run.needs,
        'rss': peak_rss(),
    }


def clocks():
    """Seconds on the wall, and of this process on all cores."""
    return np.array([time.perf_counter(), time.process_time()])


def matmul_peak(dtype, tries=8):
    """A function that measures FLOP/s of square products by both `clocks`: the best of several."""
    width = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jax.random.normal(jax.random.key(0), (width, width), dtype)  # zeros and ones draw less power, and run faster
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()

    def peak():
        seconds = []
        for _ in range(tries):
            started = clocks()
            product(x, x).block_until_ready()
            seconds.append(clocks() - started)
        return 2 * width**3 / np.min(seconds, axis=0)

    return peak


def reset_peak_rss():
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')


def peak_rss():
    """The most bytes of the process since the last reset: all memory on a CPU, only the host's memory elsewhere."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith('VmHWM'))


if __name__ == '__main__':
    main()

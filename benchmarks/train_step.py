"""Time, memory and work of a training step, ours beside the same model computed as the released code does.

    python benchmarks/train_step.py [--sizes s b] [--precisions float32 bf16] [--batch 2] [--steps 3] [--count]

`released` shares our parameters, step and optimizer, but repeats the source tokens for every target frame, writes all
attention scores to memory, keeps all activations, and inlines every layer. `peak` is the best of square matrix
products in the precision's dtype, measured before and after every step; `of peak` sets the FLOPs of `training/cost.py`
against it, the median over the steps. `cpu` is the same in CPU seconds of this process, which other programs on the
machine hardly disturb, but which leaves out cores that wait. --count adds the compiler's own count, of our model with
every layer inlined.
"""

import argparse
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from rvm_jax import config as configs
from rvm_jax.models import build, layers, patches, targets
from rvm_jax.models.decoder import flatten_time
from rvm_jax.models.rvm import Reconstruction, to_unit_range
from rvm_jax.objectives.pixel_loss import pixel_loss
from rvm_jax.training import cost, optimizer, sharding, state, step

CLIP = {'num_source': 4, 'num_target': 4, 'image_size': 256}
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
    parser.add_argument('--batch', type=int, default=2, help='clips a step')
    parser.add_argument('--steps', type=int, default=3, help='steps timed, after one that is not')
    parser.add_argument('--attention', choices=configs.CHOICES['model.attention'], default='auto')
    parser.add_argument('--remat', choices=configs.CHOICES['model.remat'], default='dots')
    parser.add_argument('--unroll', action='store_true', help='inline our layers too')
    parser.add_argument('--only-ours', action='store_true', help='leave the released way out')
    parser.add_argument('--count', action='store_true', help="compile once more for the compiler's count")
    return parser.parse_args()


def compare(size, precision, flags):
    """The rows of one size and precision, and what they say about each other."""
    ours = layers.Execution(layers.PRECISIONS[precision], flags.attention, flags.remat, flags.unroll)
    plain = layers.Execution(layers.PRECISIONS[precision], 'xla', 'none', unroll=True)
    arch = build.SIZES[size]
    objective = functools.partial(pixel_loss, **configs.default().objective)
    work = cost.train_flops(arch, **CLIP)
    rows = {'ours': measure(arch, ours, objective, flags)}
    print_row(size, precision, 'ours', rows['ours'], work)
    if not flags.only_ours:
        rows['released'] = measure(arch, plain, released_loss, flags)
        print_row(size, precision, 'released', rows['released'], work)
        wall, cpu = (rows['ours'][clock] / rows['released'][clock] for clock in ('wall', 'cpu'))
        print(f'     ours / released, relative to the peaks: {wall:.2f} of the time, {cpu:.2f} of the CPU time')
    if (size, precision, flags.batch) == ('s', 'float32', 2):
        recorded = RELEASED_GFLOP * 1e9 / RELEASED_SHARE
        print(
            f'     ours / released code as recorded ({RELEASED_SECONDS} s, {RELEASED_GFLOP} GFLOP a clip, '
            f'{RELEASED_SHARE:.0%} of the peak beside it): {rows["ours"]["wall"] / recorded:.2f} of the time, '
            f'to be at most {GOAL}; {rows["ours"]["cpu"] / recorded:.2f} of the CPU time'
        )
    if flags.count:
        lowered, _, _ = lower_step(arch, plain, objective, flags.batch)
        counted = lowered.compile({'xla_backend_optimization_level': 0}).cost_analysis()['flops'] / flags.batch
        print(f'     GFLOP a clip: {work / 1e9:.1f} analytic, {counted / 1e9:.1f} counted, {counted / work - 1:+.1%}')


def print_row(size, precision, program, row, work):
    print(
        f'{size:>4} {precision:>14} {program:>8} {1 / row["seconds"]:8.3f} {row["seconds"]:8.3f} {row["median"]:8.3f} '
        f'{work / 1e9:10.1f} {row["peak"] / 1e9:9.1f} {work / row["wall"]:8.1%} {work / row["cpu"]:6.1%} '
        f'{row["compile"]:9.1f} {row["needs"] / 1e9:8.2f} {row["rss"] / 1e9:7.2f}',
        flush=True,
    )


def measure(arch, execution, objective, flags):
    """Time a train step.

    Returns 'seconds' (fastest) and 'median' a clip, 'peak' FLOP/s, 'compile' seconds, bytes that the program 'needs'
    and that the process took ('rss'); and 'wall' and 'cpu', the FLOPs that the peak is worth in the time of a clip.
    """
    reset_peak_rss()
    lowered, train_state, batch = lower_step(arch, execution, objective, flags.batch)
    started = time.perf_counter()
    train_step = lowered.compile()
    compile_seconds = time.perf_counter() - started
    peak = matmul_peak(execution.precision.block)
    train_state, _ = jax.block_until_ready(train_step(train_state, batch))
    peaks, seconds = [peak()], []
    for _ in range(flags.steps):
        started = clocks()
        train_state, metrics = jax.block_until_ready(train_step(train_state, batch))
        seconds.append((clocks() - started) / flags.batch)
        peaks.append(peak())
    if not np.isfinite(metrics['loss']):
        raise SystemExit(f'the loss is {metrics["loss"]}')
    seconds, peaks, memory = np.array(seconds), np.array(peaks), train_step.memory_analysis()
    wall, cpu = np.median(seconds * np.maximum(peaks[:-1], peaks[1:]), axis=0)
    return {
        'seconds': seconds[:, 0].min(),
        'median': np.median(seconds[:, 0]),
        'peak': peaks[:, 0].max(),
        'wall': wall,
        'cpu': cpu,
        'compile': compile_seconds,
        'needs': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        'rss': peak_rss(),
    }


def clocks():
    """Seconds on the wall, and of this process on all cores."""
    return np.array([time.perf_counter(), time.process_time()])


def lower_step(arch, execution, objective, batch_size):
    """The train step for one device, lowered, with a state and a batch for it."""
    config = configs.default()
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    optimize = optimizer.make_optimizer(config.optim, config.steps)
    graphdef, abstract_state, _, create = state.make_state(arch, execution, optimize, config.seed, mesh)
    train_state, batch = create(), sharding.place_batch(mesh, random_batch(batch_size))
    train_step = step.make_train_step(graphdef, optimize, objective, abstract_state)
    return train_step.lower(train_state, batch), train_state, batch


def random_batch(batch_size):
    rng = np.random.default_rng(0)
    size = CLIP['image_size']
    return {
        'source_BTHWC': rng.integers(0, 256, (batch_size, CLIP['num_source'], size, size, 3), np.uint8),
        'target_BFHWC': rng.integers(0, 256, (batch_size, CLIP['num_target'], size, size, 3), np.uint8),
        'deltas_BF': rng.integers(7, 52, (batch_size, CLIP['num_target']), np.int32),
    }


def released_loss(model, batch, visible_BFV, learning=None):
    """The pixel loss with every target frame as a clip of its own, which projects the source tokens again."""
    source_BTHWC, target_BFHWC, deltas_BF = (batch[name] for name in ('source_BTHWC', 'target_BFHWC', 'deltas_BF'))
    num_target, grid = deltas_BF.shape[1], patches.grid_size(*target_BFHWC.shape[2:4], model.patch_size)
    num_patches = grid[0] * grid[1]
    target_BFHWC = to_unit_range(target_BFHWC)
    features_BTMD, _ = model.encode(source_BTHWC)
    tokens_BFMD = targets.fold_frames(model.encoder.encode_visible, target_BFHWC, visible_BFV)
    patches_BFNP, _ = model.decoder(
        *(rearrange(x, 'b f ... -> (b f) 1 ...') for x in (model.decoder.embed(tokens_BFMD), visible_BFV, deltas_BF)),
        repeat(model.decoder.embed(flatten_time(features_BTMD)), 'b k e -> (b f) k e', f=num_target),
        num_patches,
    )
    true_BFNP = rearrange(patches.to_patches(target_BFHWC, model.patch_size), 'b f n p -> (b f) 1 n p')
    return jnp.square(patches_BFNP - true_BFNP).mean(), Reconstruction(patches_BFNP, visible_BFV, features_BTMD)


def matmul_peak(dtype, tries=8):
    """A function that measures FLOP/s of square products by both `clocks`: the best of several."""
    width = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((width, width), dtype)
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
    """Bytes of the process at its largest since the last reset: all of a CPU's memory, the host's share elsewhere."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith('VmHWM'))


if __name__ == '__main__':
    main()

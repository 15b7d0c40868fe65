"""Speed, memory and optimizer size of pre-training on a frozen image encoder, and of end-to-end pre-training.

    python benchmarks/frozen.py [--sizes s b l] [--encoder dinov3] [--cores rvmrnn mamba] [--targets light_target]
                                [--precision float32] [--batch 2] [--steps 5]

Both are the programs of `rvm train` on the devices of this machine, with random clips and weights, at the same size.
Their steps take turns, so that other work on the machine affects both. `needs` is the memory that the compiler asks for
on one device: state, batch and temporary memory. `FLOPs` compares the counts of `models/cost.py`.
"""

import argparse
import os

import jax
from steps import Run

from rvm_jax import config as configs
from rvm_jax.models import layers
from rvm_jax.models.catalog import CORES, FROZEN_ENCODERS

HEADER = (
    f'{"size":>4} {"program":>28} {"clips/s":>8} {"median s/clip":>13} {"x":>5} {"GFLOP/clip":>10} {"x FLOPs":>8} '
    f'{"needs GB":>8} {"trained M":>9} {"frozen M":>8} {"optimizer GB":>12}'
)


def main():
    flags = parse_flags()
    print(f'{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {flags}')
    print(HEADER, flush=True)
    for size in flags.sizes:
        for core in flags.cores:
            for target in flags.targets:
                compare(size, core, target, flags)


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', choices=configs.SIZES, default=['s'])
    parser.add_argument('--encoder', choices=FROZEN_ENCODERS, default='dinov3')
    parser.add_argument('--cores', nargs='+', choices=CORES, default=['rvmrnn'])
    parser.add_argument('--targets', nargs='+', choices=configs.CHOICES['model.target'][2:], default=['light_target'])
    parser.add_argument('--taps', choices=configs.CHOICES['model.taps'], default='4_regular')
    parser.add_argument('--precision', choices=list(layers.PRECISIONS), default='float32')
    parser.add_argument('--remat', choices=configs.CHOICES['model.remat'], default='dots')
    parser.add_argument('--image-size', type=int, default=256)
    parser.add_argument('--batch', type=int, default=2, help='clips per step, over all devices')
    parser.add_argument('--steps', type=int, default=5, help='timed steps, after one that is not timed')
    return parser.parse_args()


def compare(size, core, target, flags):
    """A row for each of the two, and how they compare."""
    recipes = {
        'end to end': make_config(size, flags),
        f'{flags.encoder} {core} {target}': make_config(size, flags, flags.encoder, core, target),
    }
    runs = {name: Run(config) for name, config in recipes.items()}
    for _ in range(flags.steps):
        for run in runs.values():
            run.step()
    whole, _ = runs.values()
    for name, run in runs.items():
        speed, work = whole.median() / run.median(), whole.flops / run.flops
        print(
            f'{size:>4} {name:>28} {run.clips / min(run.seconds):8.3f} {run.median():13.4f} {speed:5.2f} '
            f'{run.flops / 1e9:10.1f} {work:8.2f} {run.needs / 1e9:8.2f} {run.trained / 1e6:9.2f} '
            f'{run.frozen / 1e6:8.2f} {run.optimizer / 1e9:12.3f}',
            flush=True,
        )


def make_config(size, flags, encoder='vit', core='rvmrnn', target='auto'):
    """The recipe of one of them."""
    config = configs.default()
    config.batch_size, config.data.image_size = flags.batch, flags.image_size
    config.model.size, config.model.precision, config.model.remat = size, flags.precision, flags.remat
    config.model.encoder, config.model.core, config.model.target = encoder, core, target
    config.model.taps = flags.taps
    return config


if __name__ == '__main__':
    main()

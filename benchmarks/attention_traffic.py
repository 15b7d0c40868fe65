"""Bytes that a train step moves through a TPU's memory, by the compiler: our fused attention and plain softmax.

    python benchmarks/attention_traffic.py --size s --batch 16

Compiles the unrolled step for one chip, without the chip (`pip install 'rvm_jax[tpu]'` in a separate environment).
Unrolled, because the compiler's cost analysis then counts each layer. Takes 2 to 5 minutes per program.
"""

import argparse
import os
import time

from rvm_jax.planning.aot_process import environment


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', default='s')
    parser.add_argument('--batch', type=int, default=16, help='clips on the chip')
    parser.add_argument('--topology', default='v6e:1x1')
    parser.add_argument('--remat', default='none')
    parser.add_argument('--attention', nargs='+', default=['pallas', 'xla'])
    flags = parser.parse_args()
    os.environ.update(environment('tpu'))  # before JAX is first imported
    print(f'{flags.size}, {flags.batch} clips on one chip of {flags.topology}, remat {flags.remat}, unrolled')
    for attention in flags.attention:
        print(f'{attention:>8}: {count(flags, attention)}', flush=True)


def count(flags, attention):
    """The compiler's figures for one program, as text."""
    import jax

    from rvm_jax import config as configs
    from rvm_jax.conversion.frozen import resolve
    from rvm_jax.planning import aot

    changes = {'batch_size': flags.batch, 'model.remat': flags.remat, 'model.attention': attention,
               'model.unroll': 'true', 'mesh.data': -1, 'mesh.fsdp': 1}  # fmt: skip
    config = configs.load(f'configs/rvm_{flags.size}.py', [f'{key}={value}' for key, value in changes.items()])
    traced = aot.trace_step(config, resolve(config)[0], aot.abstract_devices(flags.topology))
    began = time.monotonic()
    try:
        compiled = traced.lower(lowering_platforms=('tpu',)).compile()
    except jax.errors.JaxRuntimeError as error:
        shortage = aot.read_shortage(str(error))
        return f'does not fit: needs {shortage["needs"] / 1e9:.1f} GB beside the state, has {shortage["has"] / 1e9:.1f}'
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    needs = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return (
        f'{cost["bytes accessed"] / flags.batch / 1e9:.2f} GB a clip, {cost["flops"] / flags.batch / 1e9:.0f} GFLOP '
        f'a clip, {needs / 1e9:.1f} GB of memory, compiled in {time.monotonic() - began:.0f} s'
    )


if __name__ == '__main__':
    main()

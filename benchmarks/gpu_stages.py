"""One stage of benchmarks/gpu.sh: measure one thing on the first device, and append the results to a file.

    python benchmarks/gpu_stages.py [--sizes tiny] --rows FILE device | doctor | train RECIPE WAY | profile RECIPE |
                                    input | stream RECIPE

RECIPE: one of `RECIPES`; WAY: ours, default_flags or released (see steps.py). A line of FILE is a JSON object: `facts`
about the machine, or a row of the table (see gpu_table.py). Each row is written at once, so a stage that is stopped
leaves the rows it has.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rvm_jax import config as configs

RECIPES = {  # sizes -> name -> recipe, clips a step
    'full': {
        's': ('configs/rvm_s.py', 32),
        'b': ('configs/rvm_b.py', 16),
        'l': ('configs/rvm_l.py', 8),
        'dinov3_l': ('configs/dinov3_rvmrnn.py', 32),
    },
    'tiny': {'tiny': ('configs/tiny.py', 2), 'frozen_tiny': ('configs/frozen_tiny.py', 2)},
}
QUICK = 'model.unroll=false', 'model.core_layers=1', 'data.num_source=2'  # tiny: compiles in less time
SECONDS = {'full': 5.0, 'tiny': 0.5}  # how long each thing is measured, once it runs
COPIED = {'gpu': 2**32, 'cpu': 2**27}  # bytes; several times the size of a cache
TRACED, TOP = 5, 12  # steps in the trace, and its kernels in the table
JPEG, VIDEO_GOP = 'JPEG', 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', choices=RECIPES, default='full')
    parser.add_argument('--rows', required=True, help='file to append to')
    parser.add_argument('stage', choices=STAGES)
    parser.add_argument('what', nargs='*', help='recipe and way')
    flags = parser.parse_args()

    def add(**row):
        with open(flags.rows, 'a') as file:
            file.write(json.dumps(row) + '\n')

    STAGES[flags.stage](add, flags.sizes, *flags.what)


def device(add, sizes):
    """Names and versions, and the rates of the device: matrix products and copies."""
    import jax

    from rvm_jax.models.layers import PRECISIONS
    from rvm_jax.planning import chips

    one = jax.devices()[0]
    add(facts=facts(one))
    from train_step import matmul_peak

    from rvm_jax.training import hardware

    peak = hardware.device_peak(one, 'bf16')
    reached = float(matmul_peak(PRECISIONS['bf16'].block)()[0])
    add(what='square matrix products, bf16', rate=reached / 1e12, unit='TFLOP', mfu=peak and reached / peak)
    chip = chips.of_kind(one.device_kind)
    reached = copy_rate(COPIED[one.platform])
    share = chip and reached / chip.memory_rate
    add(what='copy in main memory, read and written', rate=reached / 1e9, unit='GB', roofline=share)


def facts(one):
    """{what: text} of the machine, the device and the software."""
    import jax

    from rvm_jax.training import hardware

    commit = output_of('git', '-C', Path(__file__).parent, 'describe', '--always', '--dirty')
    return {
        'device': one.device_kind,
        'platform': one.platform,
        'driver': output_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'),
        'runtime': ', '.join(f'{name} {version}' for name, version in hardware.cuda_versions().items()),
        'jax': jax.__version__,
        'python': platform.python_version(),
        'cpu': f'{processor()}, {len(os.sched_getaffinity(0))} cores',
        'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
        'commit': commit,
    }


def output_of(*command):
    """First line that a command prints; '' if the command does not exist or fails."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ''
    return lines[0].strip() if lines else ''


def processor():
    """The processor's own name."""
    with open('/proc/cpuinfo') as file:
        named = [line.partition(':')[2].strip() for line in file if line.startswith('model name')]
    return named[0] if named else platform.machine()


def copy_rate(size, tries=8):
    """Bytes per second that are read and written by copying an array of `size` bytes: the best of several."""
    import jax
    import jax.numpy as jnp

    increment = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jax.block_until_ready(increment(jnp.zeros(size // 4, jnp.int32)))
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        x = jax.block_until_ready(increment(x))
        seconds.append(time.perf_counter() - started)
    return 2 * size / min(seconds)


def doctor(add, sizes):
    """`rvm doctor` on this machine, for the recipe that was trained first, whose program is already compiled."""
    name = next(iter(RECIPES[sizes]))
    path, overrides = recipe_of(sizes, name)
    keys = [f'--config.{override}' for override in overrides]
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, '-m', 'rvm_jax.doctor', '--json', '--workdir', workdir, '--config', path, *keys]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 2):
        raise SystemExit(f'rvm doctor ended with exit code {done.returncode}')
    checks = json.loads(done.stdout)['checks']
    for check in checks:
        add(**doctor_row(check))
    red = [check['check'] for check in checks if check['color'] == 'red']
    if red:
        raise SystemExit(f'not ready: {", ".join(red)}')


def doctor_row(check):
    """The row of one of doctor's checks; the row of `steps` also has figures."""
    note = f'{check["color"]}: {check["text"]}' + (f' → {check["fix"]}' if check['fix'] else '')
    row, values = {'what': f'doctor: {check["check"]}', 'note': note}, check['values']
    if check['check'] == 'steps' and values:
        row |= {'rate': values['clips'], 'unit': 'clips', 'ms': 1e3 * values['step']}
        row |= {name: values[name] for name in ('mfu', 'roofline')}
    return row


def train(add, sizes, name, way):
    """Consecutive steps of a recipe, as in training, on one batch that is on the device."""
    import jax
    from steps import RELEASED, Run

    config, one = make_config(sizes, name), jax.devices()[0]
    attention = choose_attention(config)
    run = Run(config, way, [one], attention)
    seconds = run.pace(SECONDS[sizes])
    step, clips = float(np.median(seconds)), config.batch_size
    add(
        what=f'{name}, {way}',
        rate=clips / step,
        unit='clips',
        ms=1e3 * step,
        mfu=mfu(run.flops * clips / step, one, config),
        roofline=None if way == RELEASED else roofline_share(config, run.made.arch, one, step),
        needs=run.needs,
        peak=peak_memory(one),
        note=f'{clips} clips a step, {len(seconds)} steps; compiled (or loaded) in {run.compile_seconds:.0f} s'
        + ('' if way == RELEASED or attention == config.model.attention else f'; attention={attention}, by the guard'),
    )


def make_config(sizes, name):
    """A recipe in bf16, with the clips of one device."""
    return configs.load(*recipe_of(sizes, name))


def recipe_of(sizes, name):
    """(path, overrides) of a recipe."""
    path, clips = RECIPES[sizes][name]
    return path, [f'batch_size={clips}', 'model.precision=bf16', *(QUICK if sizes == 'tiny' else ())]


def choose_attention(config):
    """The attention that training would use on the first device, by its own comparison; kept beside the programs."""
    import jax

    from rvm_jax.conversion.frozen import resolve
    from rvm_jax.distributed.process_group import ALONE
    from rvm_jax.training import attention_check, sharding

    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    folder = jax.config.jax_compilation_cache_dir or os.devnull  # nothing can be kept there, and that is not an error
    return attention_check.choose(config, resolve(config)[0], mesh, ALONE, folder)


def mfu(rate, one, config):
    """Share of the device's peak FLOP/s; None if the peak is not known."""
    from rvm_jax.training import hardware

    peak = hardware.device_peak(one, config.model.precision)
    return peak and rate / peak


def roofline_share(config, arch, one, step_seconds):
    """Time of a step at the data sheet's rates (by FLOPs or traffic, whichever is longer) over the time taken.

    None if the rates of the device are not known.
    """
    from rvm_jax.planning import chips, estimate
    from rvm_jax.training import hardware

    chip, peak = chips.of_kind(one.device_kind), hardware.device_peak(one, config.model.precision)
    if chip is None or peak is None:
        return None
    flops = sum(estimate.flops_by_part(config, arch).values()) * config.batch_size
    return max(flops / peak, estimate.traffic(config, arch, one.platform, 1) / chip.memory_rate) / step_seconds


def peak_memory(one):
    """The most bytes that this process has had on the device; None if the device does not say."""
    return (one.memory_stats() or {}).get('peak_bytes_in_use')


def profile(add, sizes, name):
    """The kernels in which the steps of a recipe spend their time."""
    import jax
    from kernels import read_trace
    from steps import Run

    config = make_config(sizes, name)
    run = Run(config, devices=jax.devices()[:1], attention=choose_attention(config))
    run.pace(SECONDS[sizes] / 5)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions fill the trace and slow the steps down
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready([run.start() for _ in range(TRACED)])
        trace = read_trace(folder)
    add(
        what=f'{name}, traced',
        ms=1e3 * trace.seconds / TRACED,
        note=f'{TRACED} steps; a kernel runs in {trace.busy_seconds / trace.seconds:.1%} of the time',
    )
    for kernel in trace.kernels[:TOP]:
        share, calls = kernel.seconds / trace.kernel_seconds, kernel.calls / TRACED
        note = f'{share:.1%} of the time of all kernels, {calls:g} calls a step'
        add(what=f'… `{kernel.name}`', ms=1e3 * kernel.seconds / TRACED, note=note)


def input_(add, sizes):
    """The loader on all cores: clips of 256 pixels from shards of JPEG and from video files."""
    import data

    cores = len(os.sched_getaffinity(0))
    is_full = sizes == 'full'
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data.write_files(folder, None, [VIDEO_GOP], data.DRAWN if is_full else 1)
        data.write_shards(folder, [JPEG], VIDEO_GOP)
        for where, form in ((JPEG, 'JPEG shards'), (f'gop{VIDEO_GOP}', f'video files, GOP {VIDEO_GOP}')):
            for workers in sorted({1, cores // 2, cores} if is_full else {1}):
                batch = data.BATCH if is_full else 2
                rate, cpu = data.measure_loader(folder / where, workers, batch, SECONDS[sizes])
                note = f'{cpu * 1e3:.2f} ms a clip of the training process'
                add(what=f'input, {form}, {workers} of {cores} cores', rate=rate, unit='clips', note=note)


def stream(add, sizes, name):
    """Features of a video, one frame at a time, as from a live camera: bf16, frames from host memory, features stay."""
    import jax
    from flax import nnx

    from rvm_jax.conversion.frozen import resolve
    from rvm_jax.models import build

    config, one = make_config(sizes, name), jax.devices()[0]
    (arch, _), execution = resolve(config), build.execution(config.model, one.platform)
    execution = dataclasses.replace(execution, implementation=choose_attention(config))
    make = jax.jit(lambda: nnx.state(build.build(arch, execution, rngs=nnx.Rngs(0))))
    model = nnx.merge(nnx.split(build.abstract(arch, execution))[0], make())
    size = config.data.image_size
    frame_BTHWC = np.random.default_rng(0).integers(0, 256, (1, 1, size, size, 3), np.uint8)
    started = time.perf_counter()
    features, state = jax.block_until_ready(model.encode(frame_BTHWC))
    compile_seconds = time.perf_counter() - started
    waited, ended = [], time.perf_counter() + SECONDS[sizes] / 2
    while len(waited) < 3 or time.perf_counter() < ended:
        started = time.perf_counter()
        features, state = jax.block_until_ready(model.encode(frame_BTHWC, state))
        waited.append(time.perf_counter() - started)
    count, started = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - started < SECONDS[sizes] / 2:
        ahead = features
        features, state = model.encode(frame_BTHWC, state)
        jax.block_until_ready(ahead)
        count += 1
    jax.block_until_ready(features)
    add(
        what=f'stream, {name}, a frame at a time',
        rate=count / (time.perf_counter() - started),
        unit='frames',
        ms=1e3 * float(np.median(waited)),
        peak=peak_memory(one),
        note=f'time from frame to features, 95 % within {1e3 * np.quantile(waited, 0.95):.3g} ms; rate with one frame '
        f'ahead; compiled (or loaded) in {compile_seconds:.0f} s',
    )


STAGES = {
    'device': device,
    'doctor': doctor,
    'train': train,
    'profile': profile,
    'input': input_,
    'stream': stream,
}

if __name__ == '__main__':
    sys.exit(main())

"""What the devices do: fused attention compared with plain, some steps of the recipe, sums over all devices."""

import dataclasses
import functools
import math
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rvm_jax.checkup.finding import Finding, gigabytes
from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.distributed.step_exchange import warm_up_collectives
from rvm_jax.errors import UserError
from rvm_jax.models import build, cost, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.planning import chips, estimate, forecast
from rvm_jax.planning.aot import abstract_batch
from rvm_jax.training import attention_check, hardware, sharding
from rvm_jax.training.state import make_programs

CPU_CLIPS = 2  # clips a step and device on a CPU
MOST_STEPS, SECONDS = 20, 10.0  # of timing, whichever ends first; at least one step
SLOW = 0.3  # share of the roofline, or of the rate of the links, below which something is wrong
SENT = {'cpu': 2**22, 'gpu': 2**28, 'tpu': 2**28}  # bytes of each device in an all-reduce
ROUNDS = 5


def mesh_of(config: ml_collections.ConfigDict) -> Mesh:
    """The mesh of a recipe over all devices. Raises UserError if they do not fit together."""
    return sharding.make_mesh(config.mesh)


def fitting(config: ml_collections.ConfigDict, arch: Architecture, mesh: Mesh) -> ml_collections.ConfigDict:
    """The recipe with as many clips as fit these devices at once, by an estimate of their memory.

    They are a whole part of the recipe's own clips; on a CPU they are few. Raises UserError if one clip a device does
    not fit.
    """
    device, devices = mesh.local_devices[0], mesh.size
    most = max(1, config.batch_size // devices // config.accumulate)
    found = config.copy_and_resolve_references()
    found.accumulate = 1
    stats = device.memory_stats() or {}
    if device.platform == 'cpu' or 'bytes_limit' not in stats:
        found.batch_size = devices * min(most, CPU_CLIPS)
        return found
    slices = len({getattr(one, 'slice_index', 0) for one in mesh.devices.flat})
    doubt, needs = forecast.DOUBT.get(device.platform, 1.0), 0.0
    for clips in (clips for clips in range(most, 0, -1) if most % clips == 0):
        found.batch_size = devices * clips
        needs = doubt * sum(estimate.memory(found, arch, device.platform, devices, slices).values())
        if needs <= stats['bytes_limit']:
            return found
    raise UserError(
        f'{devices} x {device.device_kind}', f'one clip needs about {gigabytes(needs)} of {stats["bytes_limit"]:,}',
        'split weights with a larger --config.mesh.fsdp, or take --config.model.remat=full',
    )  # fmt: skip


def checkpoint_bytes(arch: Architecture, has_ema: bool) -> int:
    """Bytes of a checkpoint: the weights that train, their average if there is one, and two moments of each."""
    trained, statistics, _ = trainable.split(cost.parameters(arch), arch)
    return (3 + has_ema) * cost.num_bytes(trained) + cost.num_bytes(statistics)


def check_attention(
    config: ml_collections.ConfigDict, arch: Architecture, mesh: Mesh, hosts: ProcessGroup
) -> tuple[Finding, str]:
    """The Finding, and the `model.attention` that training would take."""
    device = mesh.local_devices[0]
    execution = build.execution(config.model, sharding.platform(mesh))
    kernels, is_free = attention_check.candidates(execution)
    shapes = attention_check.shapes(config, arch, execution) if kernels else []
    if not shapes:
        text = f'plain attention, which training takes on a {device.device_kind} in {config.model.precision}'
        return Finding('attention', 'green', f'{text}: nothing to compare'), execution.implementation
    found = []
    for i, kernel in enumerate(kernels):
        implementation = 'auto' if is_free and i == 0 else kernel
        verdict = attention_check.judge(dataclasses.replace(execution, implementation=implementation), shapes, device)
        found.append(f'{kernel} {verdict.words}')
        if all(hosts.all_gather(verdict.is_right)):
            break
    else:
        implementation, kernel = attention_check.PLAIN, None
    values = {'kernels': list(kernels), 'found': found, 'taken': kernel or implementation, 'shapes': shapes}
    text = f'{"; ".join(found)} ({len(shapes)} shapes)'
    if kernel == kernels[0]:
        return Finding('attention', 'green', text, values=values), implementation
    if not is_free:
        return Finding('attention', 'red', text, 'take --config.model.attention=auto', values), implementation
    fix = f'training takes {kernel or implementation}, which is slower; try other versions of JAX and its libraries'
    return Finding('attention', 'yellow', text, fix, values), implementation


class Pace(NamedTuple):
    """Of a recipe's steps: clips a second over all devices, seconds a step, seconds of compiling, and the last loss."""

    clips: float
    step: float
    compiling: float
    loss: float


def run_steps(config: ml_collections.ConfigDict, arch: Architecture, attention: str, hosts: ProcessGroup) -> Pace:
    """Time some steps of a recipe, which must fit, on random clips. Call it in all processes together.

    Raises what compiling raises, and UserError if it failed in another process.
    """
    failure = None
    try:
        began = time.perf_counter()
        programs = make_programs(config, arch, attention=attention)
        batch = abstract_batch(config, programs.mesh)
        step = programs.train_step.lower(programs.abstract_state, batch, programs.abstract_frozen).compile()
        compiling = time.perf_counter() - began
    except Exception as error:
        failure = error
    broken = [index for index, one in enumerate(hosts.all_gather(failure is not None)) if one]
    if failure is not None:
        raise failure
    if broken:  # a step would wait for it forever
        raise UserError(f'process {broken[0]}', 'could not prepare a step', 'see its own line')
    state, held = programs.create(), _zeros(programs.abstract_frozen)
    batch = _random_batch(config, programs.mesh)
    state, _ = jax.block_until_ready(step(state, batch, held))
    times: list[float] = []
    count = 1
    while len(times) < count:
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch, held))
        times.append(time.perf_counter() - began)
        if len(times) == 1:
            count = hosts.broadcast_from_first(lambda: min(MOST_STEPS, max(1, round(SECONDS / times[0]))))
    seconds = statistics.median(times)
    return Pace(config.batch_size / seconds, seconds, compiling, float(metrics['loss']))


def check_steps(
    config: ml_collections.ConfigDict,
    fitted: ml_collections.ConfigDict,
    arch: Architecture,
    mesh: Mesh,
    pace: Pace,
) -> Finding:
    """The Finding on a Pace; config is the recipe, fitted the same recipe with the batch size that was timed."""
    device, devices = mesh.local_devices[0], mesh.size
    platform = device.platform
    peak, floor = hardware.device_peak(device, config.model.precision), _floor_seconds(fitted, arch, device, devices)
    flops = cost.train_flops(arch, **estimate.clip(config))
    mfu = None if peak is None else flops * pace.clips / peak / devices
    share = None if floor is None else floor / pace.step
    stats = device.memory_stats() or {}
    used = stats.get('peak_bytes_in_use') or psutil.Process().memory_info().rss
    text = f'{pace.clips:.3g} clips/s, {pace.step * 1e3:,.0f} ms a step of {fitted.batch_size} clips'
    text += f' on {devices} x {device.device_kind}; compiled in {pace.compiling:.0f} s'
    text += f'; MFU {mfu:.0%}' if mfu is not None else '; MFU n/a, the peak of this device is not known'
    text += f'; {share:.0%} of the roofline' if share is not None else ''
    text += f'; {gigabytes(used)} of memory' + ('' if stats else ' of the whole process')
    loss = pace.loss if math.isfinite(pace.loss) else None
    values = {**pace._asdict(), 'loss': loss, 'mfu': mfu, 'roofline': share, 'memory': used}
    values |= {'batch_size': fitted.batch_size, 'recipe_batch_size': config.batch_size}
    if loss is None:
        return Finding('steps', 'red', f'{text}; the loss is {pace.loss}', 'try --config.model.attention=xla', values)
    if platform != 'cpu' and fitted.batch_size * config.accumulate < config.batch_size:
        text += f'; the {config.batch_size:,} clips a step of the recipe do not fit these devices, by estimate'
        parts = config.batch_size // fitted.batch_size
        return Finding('steps', 'yellow', text, f'compute a step in parts: --config.accumulate={parts}', values)
    if share is not None and share < SLOW:
        fix = 'find what takes the time: train with --config.profile.steps=3 and open the trace in TensorBoard'
        return Finding('steps', 'yellow', text, fix, values)
    return Finding('steps', 'green', text, values=values)


def _floor_seconds(config, arch, device, devices):
    """Estimated seconds of a step at the device's peak rates; None if the rates of the device are not known."""
    chip = chips.of_kind(device.device_kind)
    if chip is None:
        return None
    name = next(name for name, one in chips.CHIPS.items() if one == chip)
    seconds = forecast.estimated(config, arch, name, devices).seconds
    return max(seconds[resource] for resource in ('compute', 'memory', 'links'))


def _zeros(abstract):
    """Arrays of zeros with the shardings of `abstract`: the values of a frozen encoder's weights change no time."""
    make = functools.partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()


def _random_batch(config, mesh):
    rng = np.random.default_rng(0)
    rows = sharding.local_rows(mesh, config.batch_size)
    data, frame = config.data, (config.data.image_size,) * 2 + (3,)
    return sharding.place_batch(mesh, {
        'source_BTHWC': rng.integers(0, 256, (len(rows), data.num_source, *frame), np.uint8),
        'target_BFHWC': rng.integers(0, 256, (len(rows), data.num_target, *frame), np.uint8),
        'deltas_BF': rng.integers(data.min_gap, data.max_gap + 1, (len(rows), data.num_target), np.int32),
    })  # fmt: skip


def check_network(mesh: Mesh, hosts: ProcessGroup) -> Finding:
    """How fast all devices add up an array of each: the time that gradients take between devices."""
    device, devices = mesh.local_devices[0], mesh.size
    if devices == 1:
        return Finding('network', 'green', 'one device: nothing to send')
    warm_up_collectives(hosts, mesh)
    size = SENT.get(device.platform, SENT['cpu'])
    spec = PartitionSpec(mesh.axis_names)
    total = jax.jit(jax.shard_map(
        functools.partial(jax.lax.psum, axis_name=mesh.axis_names), mesh=mesh, in_specs=spec, out_specs=spec
    ))  # fmt: skip
    make = functools.partial(jnp.ones, (devices, size // 4), jnp.float32)
    ones = jax.jit(make, out_shardings=NamedSharding(mesh, spec))()
    jax.block_until_ready(total(ones))
    times = []
    for _ in range(ROUNDS):
        hosts.all_gather(None)  # wait until all processes are here
        began = time.perf_counter()
        jax.block_until_ready(total(ones))
        times.append(time.perf_counter() - began)
    rate = 2 * (devices - 1) / devices * size / min(times)
    return judge_network(device.device_kind, devices, hosts.count, size, rate)


def judge_network(kind: str, devices: int, processes: int, size: int, rate: float) -> Finding:
    """The Finding on the bytes a second that each device sends, and receives, in the fastest all-reduce."""
    chip = chips.of_kind(kind)
    within = chips.slices(chip, devices) == 1
    best = None if chip is None else chip.link_rate if within else chip.network_rate
    text = f'all-reduce of {size / 1e6:,.0f} MB over {devices} devices of {processes} processes: '
    text += f'{gigabytes(rate)}/s a device' + (f', the data sheet has {gigabytes(best)}/s' if best else '')
    values = {'rate': rate, 'size': size, 'data_sheet': best}
    if best and rate < SLOW * best:
        fix = 'check the fast network: NCCL_DEBUG=INFO prints which one NCCL uses (GPUs); all hosts in one slice (TPUs)'
        return Finding('network', 'yellow', text, fix, values)
    return Finding('network', 'green', text, values=values)

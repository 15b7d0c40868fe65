"""Compile the training step for TPUs or GPUs that are not there, and read from the program what it needs.

A process of its own, `python -m rvm_jax.planning.aot REQUEST RESULT` with JSON files for both, started by
aot_process.py: a compiler wants its environment set before JAX starts, prints much, and can take its process down.
"""

import json
import re
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.errors import UserError
from rvm_jax.models.architecture import Architecture
from rvm_jax.planning import gpu_targets, hlo, hlo_traffic
from rvm_jax.planning.topology import parse
from rvm_jax.training import sharding
from rvm_jax.training.state import make_programs

EXAMPLES = 'give one such as v6e:16x16, v5e:4x4, v5p:4x4x4 or v6e:1x1'
UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def main(request_path: str, result_path: str) -> None:
    """Compile what the request asks for; the result has 'compiled', 'shortage' or 'mistake'."""
    with open(request_path, encoding='utf-8') as file:
        request = json.load(file)
    try:
        result = compile_step(configs.from_dict(request['config'], 'the recipe'), request['topology'])
    except UserError as error:
        result = {'mistake': [error.value, error.reason, error.fix]}
    with open(result_path, 'w', encoding='utf-8') as file:
        json.dump(result, file)


def compile_step(config: ConfigDict, topology: str) -> dict[str, Any]:
    """{'compiled': figures of the program}, or {'shortage': {'needs', 'has'}} in bytes if memory does not suffice.

    Raises UserError for a topology that does not exist, or that config does not fit.
    """
    devices, (arch, _) = abstract_devices(topology), resolve(config)
    facts = {'devices': len(devices), 'device_kind': devices[0].device_kind}
    began = time.monotonic()
    try:
        compiled = lower_step(config, arch, devices).compile()
    except jax.errors.JaxRuntimeError as error:
        shortage = read_shortage(str(error))
        if shortage is None:
            raise
        return {'shortage': facts | shortage | {'seconds': time.monotonic() - began}}
    found = figures(compiled, len(devices), parse(topology).slices)
    return {'compiled': facts | found | {'seconds': time.monotonic() - began}}


def abstract_devices(topology: str) -> list[jax.Device]:
    """The devices of a topology as the compiler knows them; raises UserError for an unknown name."""
    place = parse(topology)
    kind, _, shape = topology.partition(':')
    if place.platform == 'tpu':
        return _abstract_tpus(topology, kind, shape)
    text = gpu_targets.describe(gpu_targets.TARGETS[kind])
    devices: Any = place.devices  # known for every GPU
    grid = f'1x{place.slices}x{devices // place.slices}'
    return topologies.get_topology_desc(platform='cuda', target_config=text, topology=grid).devices


def _abstract_tpus(topology, generation, shape):
    options: dict[str, Any] = {'chips_per_host_bounds': (1, 1, 1)} if shape and set(shape.split('x')) == {'1'} else {}
    if generation == 'v4':
        options['chip_config_name'] = 'megacore'  # both cores as one device, as JAX has them on a real v4
    try:
        return topologies.get_topology_desc(topology, 'tpu', **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = re.sub(r'^[A-Z_]+: | and does not match regex.*', '', str(error).splitlines()[0])
        raise UserError(f'--topology {topology}', f'libtpu does not know this slice ({reason})', EXAMPLES) from None


def lower_step(config: ConfigDict, arch: Architecture, devices: list[jax.Device]) -> jax.stages.Lowered:
    """The train step of `loop.train` for these devices, ready to be compiled; each process of GPUs is a host."""
    platform = 'cuda' if devices[0].platform == 'gpu' else devices[0].platform
    return trace_step(config, arch, devices).lower(lowering_platforms=(platform,))


def trace_step(config: ConfigDict, arch: Architecture, devices: list[jax.Device]) -> jax.stages.Traced:
    """The train step of `loop.train` on these devices, traced with shapes alone."""
    programs = make_programs(config, arch, devices, by_process=devices[0].platform == 'gpu')
    batch = abstract_batch(config, programs.mesh)
    return programs.train_step.trace(programs.abstract_state, batch, programs.abstract_frozen)


def abstract_batch(config: ConfigDict, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a step's arrays, with where they lie on the mesh."""
    data, clips = config.data, config.batch_size
    frame = (data.image_size, data.image_size, 3)
    arrays = {
        'source_BTHWC': ((clips, data.num_source, *frame), jnp.uint8),
        'target_BFHWC': ((clips, data.num_target, *frame), jnp.uint8),
        'deltas_BF': ((clips, data.num_target), jnp.int32),
    }
    placed = NamedSharding(mesh, sharding.BATCH)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, (shape, dtype) in arrays.items()}


def figures(compiled: jax.stages.Compiled, devices: int, slices: int = 1) -> dict[str, Any]:
    """What a compiled program needs on each device, in bytes: memory, traffic of main memory, collectives by kind.

    slices: see `hlo.collectives`.
    """
    return memory(compiled) | moves(hlo.parse(str(compiled.as_text())), devices, slices)


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """{'needs', 'arguments'}: bytes of a device's memory, in all and of what goes in."""
    found: Any = compiled.memory_analysis()
    arguments = found.argument_size_in_bytes
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    needs = arguments + results + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    return {'needs': needs, 'arguments': arguments}


def moves(program: hlo.Program, devices: int, slices: int = 1) -> dict[str, Any]:
    """{'traffic', 'collectives', 'loops_of_unknown_length'} of a `hlo.Program`, see `figures`."""
    times, unknown = hlo.runs(program)
    kinds: dict[str, dict[str, float]] = {}
    for one in hlo.collectives(program, times, devices, slices):
        total = kinds.setdefault(one.kind, {'count': 0, 'size': 0, 'moved': 0, 'crossing': 0})
        total['count'] += one.times
        total['size'] += one.times * one.size
        total['moved'] += one.moved
        total['crossing'] += one.crossing
    return {
        'traffic': hlo_traffic.traffic(program, times),
        'collectives': kinds,
        'loops_of_unknown_length': len(unknown),
    }


def read_shortage(message: str) -> dict[str, float] | None:
    """{'needs', 'has'} in bytes from the compiler's message about memory; None if it is about something else."""
    if 'RESOURCE_EXHAUSTED' not in message:
        return None
    for pattern in (r'\(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)',
                    r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm'):  # fmt: skip
        if found := re.search(pattern, message):
            needs, needs_unit, has, has_unit = found.groups()
            return {'needs': float(needs) * UNITS[needs_unit], 'has': float(has) * UNITS[has_unit]}
    return None


if __name__ == '__main__':
    main(*sys.argv[1:])

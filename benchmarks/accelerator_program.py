"""Compile one recipe as training does, without the device, and check the compiled program.

    python benchmarks/accelerator_program.py CASE.json RESULT.json FOLDER

check_accelerators.py starts this in the environment of one kind of device, with `aot_process.environment`. FOLDER keeps
compiled programs under a hash of the compiler's input, so an unchanged program is not compiled again.
"""

import gzip
import hashlib
import importlib.metadata
import json
import os
import sys
import time

import jax

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.planning import aot, hlo
from rvm_jax.planning import program_checks as checks
from rvm_jax.planning.topology import parse
from rvm_jax.training.state import COMPILER_OPTIONS

FLAGS = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'JAX_EXEC_TIME_OPTIMIZATION_EFFORT', 'JAX_MEMORY_FITTING_EFFORT')
COMPILERS = ('jax', 'libtpu', 'nvidia-')  # prefixes of the packages that decide the compiled program


def main(case_path, result_path, folder):
    with open(case_path, encoding='utf-8') as file:
        case = json.load(file)
    result = judge(case, folder)
    with open(result_path, 'w', encoding='utf-8') as file:
        json.dump(result, file)


def judge(case, folder):
    """{'figures' or None, 'findings', 'seconds' of compiling or None if it was kept} for {recipe, topology, batch}."""
    config = configs.load(case['recipe'], [f'batch_size={case["batch"]}'])
    place = parse(case['topology'])
    devices, (arch, _) = aot.abstract_devices(case['topology']), resolve(config)
    lowered = aot.lower_step(config, arch, devices)
    kept = os.path.join(folder, f'{key(lowered, case["topology"])}.json.gz')
    began, is_kept = time.monotonic(), os.path.exists(kept)
    if is_kept:
        with gzip.open(kept, 'rt', encoding='utf-8') as file:
            made = json.load(file)
    else:
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return {'figures': None, 'findings': [f'does not compile: {str(error).splitlines()[0]}'], 'seconds': None}
        made = {'memory': aot.memory(compiled), 'text': compiled.as_text()}
        write(kept, made)
    seconds = None if is_kept else time.monotonic() - began
    program = hlo.parse(made['text'])
    times, _ = hlo.runs(program)
    figures = made['memory'] | aot.moves(program, len(devices), place.slices)
    fused = checks.fused_attentions(config, arch, place.platform)
    split = checks.split_of(config, arch, len(devices), place.slices)
    calls = checks.attention_calls(program, times)
    findings = [
        *checks.check_calls(calls, checks.needed_calls(fused)),
        *checks.scores_in_memory(program, times, fused),
        *checks.whole_weights(program, times, split),
        *checks.whole_gradients(program, times, len(devices), split),
        *checks.waiting_gradients(program, times, split),
    ]
    figures |= {'attention': calls, 'jax': jax.__version__}
    return {'figures': figures, 'findings': findings, 'seconds': seconds}


def key(lowered, topology):
    """A hash, in hex digits, of all that goes into the compiler."""
    installed = {f'{one.name}=={one.version}' for one in importlib.metadata.distributions()}
    facts = {
        'topology': topology,
        'packages': sorted(name for name in installed if name.lower().startswith(COMPILERS)),
        'flags': {name: os.environ.get(name, '') for name in FLAGS},
        'options': COMPILER_OPTIONS,
    }
    return hashlib.sha256((json.dumps(facts, sort_keys=True) + lowered.as_text()).encode()).hexdigest()[:20]


def write(path, made):
    """Keep the compiled program; the file appears complete or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with gzip.open(f'{path}.part', 'wt', encoding='utf-8') as file:
        json.dump(made, file)
    os.replace(f'{path}.part', path)


if __name__ == '__main__':
    main(*sys.argv[1:])

"""Runs aot.py in a process of its own: sets its environment, hides its output, shows progress, explains errors."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from ml_collections import ConfigDict

from rvm_jax import plugins
from rvm_jax.config import plugin_parts
from rvm_jax.errors import UserError
from rvm_jax.planning.topology import parse

NO_TPU = {
    'TPU_SKIP_MDS_QUERY': '1',  # else libtpu looks for a TPU machine's metadata, and waits
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # a compiler needs no TPU to itself
}
# The compiler's least effort: a tenth of the time, the memory within a few percent of that of the default.
LEAST_EFFORT = {'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1', 'JAX_MEMORY_FITTING_EFFORT': '-1'}
STACK = '--fibers_default_thread_stack_size=16777216'  # the compiler's own stack overflows on some of our programs
# What XLA's compiler for GPUs loads beside the plugin; the rest of jax[cuda13] serves to run programs.
PLUGIN = ('jax-cuda13-plugin', 'jax-cuda13-pjrt')
LIBRARIES = ('nvidia-cudnn-cu13', 'nvidia-cublas', 'nvidia-cuda-nvrtc', 'nvidia-cuda-runtime', 'nvidia-nvjitlink',
             'nvidia-cuda-nvcc')  # fmt: skip


def compile_ahead(config: ConfigDict, topology: str, label: str) -> dict[str, Any]:
    """Compile config's train step for a topology; returns what `aot.compile_step` does.

    label says what on the progress line. Raises UserError for a topology or config that cannot be, if packages lack,
    and if the compiler crashes.
    """
    platform = parse(topology).platform
    _check_packages(topology, platform)
    with tempfile.TemporaryDirectory(prefix='rvm_plan_') as folder:
        request, result, log = (os.path.join(folder, name) for name in ('request.json', 'result.json', 'log.txt'))
        with open(request, 'w', encoding='utf-8') as file:
            json.dump({'config': config.to_dict(), 'topology': topology}, file)
        with open(log, 'wb') as file:
            command = [sys.executable, '-m', 'rvm_jax.planning.aot', request, result]
            own = plugins.environment(name for _, name, _ in plugin_parts(config))
            code = _run(command, file, label, environment(platform) | own)
        if code:
            _explain(code, log, topology)
        with open(result, encoding='utf-8') as file:
            outcome = json.load(file)
    if 'mistake' in outcome:
        raise UserError(*outcome['mistake'])
    return outcome


def _check_packages(topology, platform):
    if platform == 'tpu':
        if importlib.util.find_spec('libtpu') is None:
            raise UserError(
                f'--topology {topology}', 'needs libtpu, which is not installed here',
                "python -m venv tpu && tpu/bin/pip install -e '.[tpu]'; or leave --topology out for an estimate",
            )  # fmt: skip
        return
    if missing := missing_packages():
        version = importlib.metadata.version('jax')
        packages = ' '.join([f'jax=={version}', *(f'{name}=={version}' for name in PLUGIN), *LIBRARIES])
        raise UserError(
            f'--topology {topology}', f'needs {", ".join(missing)}, not installed here',
            f'python -m venv cuda && cuda/bin/pip install -e . {packages}; or leave --topology out for an estimate',
        )  # fmt: skip


def missing_packages() -> list[str]:
    """Names of the packages that compiling for GPUs lacks here."""
    installed = {found.name.lower().replace('_', '-') for found in importlib.metadata.distributions()}
    return [name for name in (*PLUGIN, *LIBRARIES) if name not in installed]


def environment(platform: str, as_training: bool = False) -> dict[str, str]:
    """Environment variables of a process that compiles for 'tpu' or 'gpu': ours with what its compiler wants.

    as_training: with the effort and the stack that training compiles with. For GPUs it is always so.
    """
    variables = os.environ | {'JAX_PLATFORMS': 'cpu'}
    if platform == 'gpu':
        return variables
    variables.pop('XLA_FLAGS', None)  # those are for another compiler
    if as_training:
        return variables | NO_TPU
    arguments = ' '.join([os.environ.get('LIBTPU_INIT_ARGS', ''), STACK]).strip()
    return variables | NO_TPU | LEAST_EFFORT | {'LIBTPU_INIT_ARGS': arguments}


def _run(command, log, label, environment):
    """The exit code of a command that writes to log; on a terminal, seconds count up on one line meanwhile."""
    is_seen, began = sys.stderr.isatty(), time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as process:
        try:
            while process.poll() is None:
                if is_seen:
                    seconds = time.monotonic() - began
                    print(f'\rcompiling {label}  {seconds:.0f} s ', end='', file=sys.stderr, flush=True)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1 if is_seen else None)
        finally:
            process.kill()
            if is_seen:
                print('\r\x1b[K', end='', file=sys.stderr, flush=True)
    return process.returncode


def _explain(code, log, topology):
    with open(log, encoding='utf-8', errors='replace') as file:
        text = file.read()
    if code < 0:
        raise UserError(
            f'--topology {topology}', f'the compiler ended with {signal.Signals(-code).name}',
            'try another batch, remat or mesh; if it was killed, free some memory',
        )  # fmt: skip
    raise RuntimeError(f'the compiler process failed for {topology}:\n{text[-4000:]}')

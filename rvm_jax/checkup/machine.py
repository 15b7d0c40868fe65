"""The machine itself: devices and their driver, packages, memory, shared memory, open files, disk."""

import contextlib
import glob
import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import time

import jax
import psutil

from rvm_jax.checkup.finding import Finding, gigabytes
from rvm_jax.data.workers import SHARED_MEMORY
from rvm_jax.storage import files
from rvm_jax.training import hardware

FOUND = '/proc/driver/nvidia/gpus/*'
PLUGINS = ('jax-cuda12-plugin', 'jax-cuda12-pjrt', 'jax-cuda13-plugin', 'jax-cuda13-pjrt')
PACKAGES = ('jax', 'jaxlib', *PLUGINS, 'libtpu', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'av', 'numpy')
LITTLE_MEMORY = 4e9  # bytes of host memory; with less, decoding and checkpoints do not fit together
FEW_FILES, MANY_FILES = 512, 65536
WRITTEN = 256 * 2**20  # bytes written and read to measure a disk
SLOW_SAVE = 300.0  # seconds


def check_devices() -> Finding:
    """What JAX computes on, compared with what the machine has."""
    gpus, tpus = nvidia_gpus(), len(glob.glob('/dev/accel[0-9]*'))
    found = jax.devices()
    here = jax.local_devices()
    memory = [stats['bytes_limit'] for device in here if (stats := device.memory_stats()) and 'bytes_limit' in stats]
    return judge_devices(
        found[0].platform, found[0].device_kind, len(found), len(here), memory, gpus, tpus,
        os.environ.get('JAX_PLATFORMS', ''),
    )  # fmt: skip


def judge_devices(
    platform: str, kind: str, count: int, local: int, memory: list[float], gpus: int, tpus: int, forced: str
) -> Finding:
    """The Finding on so many devices that JAX sees, `local` of them in this process.

    memory: bytes that JAX may use of each local device; gpus, tpus: how many the machine has; forced: JAX_PLATFORMS in
    the environment, '' if it is not set.
    """
    text = f'{count} x {kind}' + (f', {local} of them in this process' if local < count else '')
    text += f', {gigabytes(min(memory))} each' if memory else ''
    values = {'platform': platform, 'kind': kind, 'devices': count, 'local_devices': local, 'memory': memory}
    values |= {'nvidia_gpus': gpus, 'tpus': tpus}
    if platform == 'cpu' and (gpus or tpus):
        has = f'{gpus} NVIDIA GPUs' if gpus else f'{tpus} TPU chips'
        if forced:
            fix = 'remove JAX_PLATFORMS from the environment (launch/local.sh sets it on purpose)'
            return Finding('devices', 'yellow', f'{text}; JAX_PLATFORMS={forced} hides {has}', fix, values)
        fix = "pip install 'rvm_jax[cuda13]' (cuda12 for drivers before 580)" if gpus else "pip install 'rvm_jax[tpu]'"
        return Finding('devices', 'red', f'{text}; JAX does not see the {has} of this machine', fix, values)
    if platform == 'cpu':
        return Finding('devices', 'yellow', f'{text}: no accelerator', 'enough for configs/tiny.py and tests', values)
    if platform == 'gpu' and local < gpus and local == count:
        fix = 'remove CUDA_VISIBLE_DEVICES from the environment, or start one process for each GPU'
        return Finding('devices', 'yellow', f'{text}; the machine has {gpus} NVIDIA GPUs', fix, values)
    return Finding('devices', 'green', text, values=values)


def nvidia_gpus() -> int:
    """Number of GPUs that the NVIDIA driver lists, by nvidia-smi or in /proc."""
    listed = _nvidia_smi('--list-gpus')
    return len(listed) or len(glob.glob(FOUND))


def _nvidia_smi(*arguments):
    """The lines that nvidia-smi prints; [] where there is none or it fails."""
    if not shutil.which('nvidia-smi'):
        return []
    try:
        done = subprocess.run(['nvidia-smi', *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if done.returncode else done.stdout.strip().splitlines()


def check_driver() -> Finding:
    """Whether the driver of NVIDIA GPUs fits the CUDA and cuDNN that JAX uses; other devices have nothing to check."""
    driver = next(iter(_nvidia_smi('--query-gpu=driver_version', '--format=csv,noheader')), '')
    return judge_driver(jax.default_backend(), driver, hardware.cuda_versions())


def judge_driver(platform: str, driver: str, versions: dict[str, str]) -> Finding:
    """The Finding on a driver's version, '' if not known; versions: see `hardware.cuda_versions`."""
    values = {'driver': driver, **versions}
    if platform != 'gpu':
        runtime = ' '.join(jax.devices()[0].client.platform_version.split())
        return Finding('driver', 'green', f'no NVIDIA driver is used; runtime {runtime}', values=values)
    cuda, most = versions.get('cuda', ''), versions.get('cuda of the driver', '')
    text = f'driver {driver or "of unknown version"}, which takes CUDA up to {most or "?"}; CUDA {cuda or "?"}, '
    text += f'cuDNN {versions.get("cudnn") or "not found"}'
    if not versions.get('cudnn'):
        return Finding('driver', 'red', text, "pip install 'rvm_jax[cuda13]', which brings cuDNN", values)
    if cuda and most and _numbers(most)[0] < _numbers(cuda)[0]:
        fix = f'install a newer driver, or the extra cuda{_numbers(most)[0]} in place of this one'
        return Finding('driver', 'red', text, fix, values)
    return Finding('driver', 'green', text, values=values)


def check_packages() -> Finding:
    """Versions of JAX and of the packages that must fit it."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return judge_packages(versions)


def judge_packages(versions: dict[str, str]) -> Finding:
    """The Finding on {package: version} of the installed packages."""
    text = ', '.join(f'{name} {version}' for name, version in versions.items())
    jaxlib = versions['jaxlib']
    extras = sorted({f'cuda{number}' for name in versions for number in re.findall(r'cuda(\d+)-plugin', name)})
    again = f"pip install --upgrade 'jax[{extras[0]}]'" if extras else 'pip install --upgrade jax jaxlib'
    different = [f'{name} {versions[name]}' for name in PLUGINS if versions.get(name, jaxlib) != jaxlib]
    if different:
        reason = f'{", ".join(different)} with jaxlib {jaxlib}: they must have the same version'
        return Finding('packages', 'red', reason, again, versions)
    if len(extras) > 1:
        fix = 'make a new environment with one of the extras'
        return Finding('packages', 'red', f'plugins for {" and ".join(extras)} together', fix, versions)
    if _numbers(versions['jax'])[:2] != _numbers(jaxlib)[:2]:
        return Finding('packages', 'yellow', f'jax {versions["jax"]} with jaxlib {jaxlib}', again, versions)
    return Finding('packages', 'green', text, values=versions)


def _numbers(version):
    return [int(number) for number in re.findall(r'\d+', version)]


def check_memory() -> Finding:
    """Memory of the host that this process may use."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    with contextlib.suppress(OSError, ValueError):  # a container's own limit; "max" where it has none
        limit = int(files.read('/sys/fs/cgroup/memory.max'))
        used = int(files.read('/sys/fs/cgroup/memory.current'))
        total, available = min(total, limit), min(available, limit - used)
    return judge_memory(total, available, len(os.sched_getaffinity(0)))


def judge_memory(total: float, available: float, cores: int) -> Finding:
    """The Finding on bytes of the host's memory, and CPU cores that this process may use."""
    text = f'{gigabytes(available)} of {gigabytes(total)} free, {cores} CPU cores'
    values = {'total': total, 'available': available, 'cores': cores}
    if available < LITTLE_MEMORY:
        return Finding('memory', 'yellow', text, 'end other programs, or lower data.num_workers', values)
    return Finding('memory', 'green', text, values=values)


def check_shared_memory(needed: int) -> Finding:
    """Whether there is room for the clips that workers pass on: bytes needed by all processes on this host."""
    if not os.path.isdir(SHARED_MEMORY):
        return Finding('shared memory', 'green', f'{SHARED_MEMORY} does not exist: workers pass on clips in files')
    return judge_shared_memory(shutil.disk_usage(SHARED_MEMORY).free, needed)


def judge_shared_memory(free: float, needed: float) -> Finding:
    """The Finding on bytes of /dev/shm: free ones, and those that the loaders of this host need."""
    text = f'{SHARED_MEMORY} has {gigabytes(free)} free, workers of this host need {gigabytes(needed)}'
    values = {'free': free, 'needed': needed}
    fix = 'enlarge it (docker run --shm-size=...), lower batch_size, or set --config.data.num_workers=0'
    color = 'red' if free < needed else 'yellow' if free < 1.25 * needed else 'green'
    return Finding('shared memory', color, text, '' if color == 'green' else fix, values)


def check_open_files() -> Finding:
    """How many files this process may have open."""
    return judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_open_files(limit: int) -> Finding:
    """The Finding on the limit of open files of one process, -1 for none."""
    text = 'no limit' if limit == resource.RLIM_INFINITY else f'{limit:,} at the same time'
    if 0 <= limit < FEW_FILES:
        fix = f'ulimit -n {MANY_FILES} in the shell that starts it'
        return Finding('open files', 'red', f'{text}: a loader keeps up to 256 shards open', fix, {'limit': limit})
    return Finding('open files', 'green', text, values={'limit': limit})


def check_disk(workdir: str, checkpoint_bytes: int, keep: int) -> Finding:
    """Speed and free space of the place where checkpoints go. Leaves no file there."""
    place = files.absolute(workdir)
    while not files.is_remote(place) and not os.path.isdir(place):
        place = os.path.dirname(place)
    free = files.free_bytes(place)
    size = int(min(WRITTEN, free / 8))
    name = os.path.join(place, f'.rvm_doctor_{os.getpid()}')
    data = os.urandom(2**20) * (size // 2**20)
    try:
        began = time.perf_counter()
        files.write(name, data, durable=True)
        written = time.perf_counter()
        _forget(name)
        began_reading = time.perf_counter()
        files.read(name)
        done = time.perf_counter()
    finally:
        files.remove(name)
    rates = len(data) / (written - began), len(data) / (done - began_reading)
    return judge_disk(place, free, *rates, checkpoint_bytes, keep)


def _forget(path):
    """Drop a file from the page cache, so that reading it measures the disk and not the memory."""
    if not files.is_remote(path):
        with open(path, 'rb') as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def judge_disk(
    place: str, free: float, write_rate: float, read_rate: float, checkpoint_bytes: int, keep: int
) -> Finding:
    """The Finding on a place with `free` bytes; rates in bytes a second; keep: number of checkpoints that stay."""
    needed = (keep + 1) * checkpoint_bytes  # the new one is written before the oldest is deleted
    seconds = checkpoint_bytes / write_rate
    room = 'a bucket' if files.is_remote(place) else f'{gigabytes(free)} free'
    text = f'{place}: {room}, writes {write_rate / 1e6:,.0f} MB/s, reads {read_rate / 1e6:,.0f} MB/s; a checkpoint of '
    text += f'{gigabytes(checkpoint_bytes)} takes about {seconds:.2g} s'
    values = {'place': place, 'free': free if free < float('inf') else None, 'write_rate': write_rate}
    values |= {'read_rate': read_rate, 'checkpoint_bytes': checkpoint_bytes, 'needed': needed}
    if free < 2 * checkpoint_bytes:
        return Finding('disk', 'red', f'{text}; two do not fit', 'make room, or take another --workdir', values)
    if free < needed:
        fix = 'make room, or keep fewer with --config.checkpoint.keep'
        return Finding('disk', 'yellow', f'{text}; {keep + 1} need {gigabytes(needed)}', fix, values)
    if seconds > SLOW_SAVE:
        return Finding('disk', 'yellow', text, 'save less often: raise --config.checkpoint.every', values)
    return Finding('disk', 'green', text, values=values)

"""NVIDIA GPUs as XLA's compiler wants them described, so that it compiles for one that is not there.

Numbers are those of XLA's own descriptions (openxla/xla, xla/backends/gpu/target_config/specs: a100_sxm_80, h100_sxm,
h200, b200), which CUDA reports of such a device. What is the same for all of them is in COMMON.
"""

from typing import NamedTuple

DESCRIPTION = 'gpu_device_info {{ {} }} {} device_description_str: "{}"'
COMMON = {
    'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'shared_memory_per_block': 49152,
    'threads_per_core_limit': 2048, 'block_dim_limit_x': 2147483647, 'block_dim_limit_y': 65535,
    'block_dim_limit_z': 65535, 'thread_dim_limit_x': 1024, 'thread_dim_limit_y': 1024, 'thread_dim_limit_z': 64,
    'registers_per_core_limit': 65536, 'registers_per_block_limit': 65536,
}  # fmt: skip
LIBRARIES = 'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 }'


class Target(NamedTuple):
    """device_kind as JAX calls it; memory and caches in bytes, bandwidth in bytes per second, capability of CUDA."""

    device_kind: str
    capability: int
    core_count: int
    fpus_per_core: int
    shared_memory_per_core: int
    l2_cache_size: int
    clock_rate_ghz: float
    memory_bandwidth: int
    memory: int


TARGETS = {
    'a100': Target('NVIDIA A100-SXM4-80GB', 8, 108, 64, 167936, 41943040, 1.41, 2039040000000, 85100068864),
    'h100': Target('NVIDIA H100 80GB HBM3', 9, 132, 128, 233472, 52428800, 1.98, 3352320000000, 84942979072),
    'h200': Target('NVIDIA H200', 9, 132, 128, 233472, 52428800, 1.98, 4800000000000, 151397597184),
    'b200': Target('NVIDIA B200', 10, 148, 128, 233472, 132644864, 1.965, 7672320000000, 191514411008),
}


def describe(target: Target) -> str:
    """The text of a GpuTargetConfigProto."""
    numbers = COMMON | {
        'core_count': target.core_count,
        'fpus_per_core': target.fpus_per_core,
        'shared_memory_per_core': target.shared_memory_per_core,
        'shared_memory_per_block_optin': target.shared_memory_per_core - 1024,
        'l2_cache_size': target.l2_cache_size,
        'clock_rate_ghz': target.clock_rate_ghz,
        'memory_bandwidth': target.memory_bandwidth,
        'device_memory_size': target.memory,
    }
    words = [f'{name}: {value}' for name, value in numbers.items()]
    extension = 'ACCELERATED_FEATURES' if target.capability >= 9 else 'NONE'
    words.append(f'cuda_compute_capability {{ major: {target.capability} feature_extension: {extension} }}')
    return DESCRIPTION.format(' '.join(words), LIBRARIES, target.device_kind)

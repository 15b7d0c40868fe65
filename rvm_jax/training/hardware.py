"""Devices: their peak rates by the data sheets, and the versions of the software that computes on them."""

import jax
import jaxlib

from rvm_jax.training import run_record

# device_kind -> dense FLOP/s in bfloat16 with sums in float32, and in float32 at JAX's default precision for matrix
# products, which is TF32 on GPUs and one bfloat16 pass on TPUs. From the data sheets of NVIDIA and Google.
PEAKS = {
    'NVIDIA A100': (312e12, 156e12),
    'NVIDIA H100 PCIe': (756e12, 378e12),
    'NVIDIA H100 80GB HBM3': (989e12, 495e12),
    'NVIDIA H200': (989e12, 495e12),
    'NVIDIA GH200': (989e12, 495e12),
    'NVIDIA B200': (2250e12, 1100e12),
    'NVIDIA GeForce RTX 3090': (71e12, 35.6e12),
    'NVIDIA GeForce RTX 4090': (165e12, 82.6e12),
    'NVIDIA GeForce RTX 5090': (209.5e12, 104.8e12),
    'NVIDIA A10': (125e12, 62.5e12),
    'NVIDIA A10G': (70e12, 35e12),
    'NVIDIA L4': (121e12, 60.5e12),
    'NVIDIA L40S': (362e12, 183e12),
    'Tesla T4': (8.1e12, 8.1e12),  # it has neither bfloat16 nor TF32: XLA computes both in float32
    'TPU v4': (275e12, 275e12),
    'TPU v5 lite': (197e12, 197e12),
    'TPU v5e': (197e12, 197e12),
    'TPU v5p': (459e12, 459e12),
    'TPU v5': (459e12, 459e12),
    'TPU v6 lite': (918e12, 918e12),
    'TPU v6e': (918e12, 918e12),
}


def device_peak(device: jax.Device, precision: str) -> float | None:
    """Dense FLOP/s of a JAX device in a config's `model.precision`; None if it is not known, as for every CPU."""
    known = [kind for kind in PEAKS if device.device_kind.startswith(kind)]
    return PEAKS[max(known, key=len)][precision == 'float32'] if known else None


def software(device: jax.Device) -> dict[str, str]:
    """{what: version} of everything that decides what a kernel computes: this code, JAX, the device's libraries."""
    facts = {'rvm_jax': run_record.code_version(), 'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
    facts['runtime'] = ' '.join(device.client.platform_version.split())
    return facts | cuda_versions()


def cuda_versions() -> dict[str, str]:
    """{'cudnn', 'cuda', 'cuda of the driver'}: versions that JAX finds, such as 9.10.2 and 13.0; {} without CUDA."""
    from jax._src.lib import cuda_versions as found

    if found is None:
        return {}
    versions = {}
    for name, call, parts in (
        ('cudnn', 'cudnn_get_version', (10000, 100, 1)),
        ('cuda', 'cuda_runtime_get_version', (1000, 10)),
        ('cuda of the driver', 'cuda_driver_get_version', (1000, 10)),
    ):
        try:
            number = getattr(found, call)()
        except Exception:  # JAX raises several types if a library is not installed
            continue
        if number:  # 0 without a driver
            versions[name] = '.'.join(str(number // part % 100) for part in parts)
    return versions

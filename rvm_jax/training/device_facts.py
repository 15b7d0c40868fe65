"""Names and versions of a device and of the software that computes on it."""

import jax
import jaxlib

from rvm_jax.training import initialize


def software(device: jax.Device) -> dict[str, str]:
    """{what: version} of all that decides what a kernel computes: this code, JAX, the libraries of the device."""
    facts = {'rvm_jax': initialize.code_version(), 'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
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
        except Exception:  # a library that is not there is said in several ways
            continue
        if number:  # a driver that is not there is 0
            versions[name] = '.'.join(str(number // part % 100) for part in parts)
    return versions

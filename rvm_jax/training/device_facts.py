"""Names and versions of a device and of the software that computes on it."""


import jax
import jaxlib

from rvm_jax.training import start


def software(device: jax.Device) -> dict[str, str]:
    """{what: version} of all that decides what a kernel computes: this code, JAX, the libraries of the device."""
    facts = {'rvm_jax': start.code_version(), 'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
    facts['runtime'] = ' '.join(device.client.platform_version.split())
    return facts | ({'cudnn': cudnn_version()} if device.platform == 'gpu' else {})


def cudnn_version() -> str:
    """The version of cuDNN that JAX loads, such as 9.10.2; '' where there is none."""
    try:
        from jax._src.lib import cuda_versions

        number = cuda_versions.cudnn_get_version()
    except Exception:  # JAX says in several ways that the library is not there
        return ''
    return f'{number // 10000}.{number // 100 % 100}.{number % 100}'

"""Named arrays to and from the safetensors file format; names are joined by '.' there, as its users expect."""

from rvm_jax.errors import UserError


def read_safetensors(path):
    """{name: float32 array} of a .safetensors file; raises UserError if it is damaged or holds other numbers."""
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(path, f'not a readable safetensors file ({error})', 'copy or download it again') from error
    other = [f'{name} ({array.dtype})' for name, array in arrays.items() if array.dtype != 'float32']
    if other:
        raise UserError(path, f'weights are float32, not so {", ".join(other[:4])}', 'convert them')
    return {name.replace('.', '/'): array for name, array in arrays.items()}


def safetensors_bytes(named):
    """The file's contents for {name: array}."""
    import numpy as np
    import safetensors.numpy

    arrays = {name.replace('/', '.'): np.ascontiguousarray(array) for name, array in named.items()}
    return safetensors.numpy.save(arrays, metadata={'format': 'np'})

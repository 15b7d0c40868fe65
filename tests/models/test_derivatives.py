import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.models import derivatives


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


@pytest.mark.parametrize('approximate', [True, False])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_gelu_dense_has_the_derivatives_of_the_plain_program(approximate, dtype, tolerance):
    arrays = draw(2, 5, 12), 0.3 * draw(12, 8), draw(8)

    def plain(x, kernel, bias):
        return jax.nn.gelu(x, approximate=approximate) @ kernel + bias

    def ruled(x, kernel, bias):
        return derivatives.gelu_dense(x, kernel, bias, approximate)

    def separate(x, kernel, bias):
        return derivatives.gelu(x, approximate) @ kernel + bias

    def outputs(function, dtype):
        def total(*arrays):
            y = function(*arrays).astype(jnp.float32)
            return (y * draw(2, 5, 8)).sum(), y

        gradients, y = jax.grad(total, (0, 1, 2), has_aux=True)(*(x.astype(dtype) for x in arrays))
        return [np.asarray(x, np.float64) for x in (y, *gradients)]

    for function in (ruled, separate):
        for found, expected in zip(outputs(function, dtype), outputs(plain, jnp.float32), strict=True):
            np.testing.assert_allclose(
                found / np.abs(expected).max(), expected / np.abs(expected).max(), atol=tolerance
            )

"""Two dense layers from any width to any other."""

import jax
from flax import nnx

from rvm_jax.models import layers


class MLP(nnx.Module):
    """Dense, GELU ('tanh' approximation or exact 'erf'), Dense."""

    def __init__(self, inputs, hidden, outputs, *, gelu, rngs):
        self.approximate = gelu == 'tanh'
        self.dense_in = layers.Dense(inputs, hidden, rngs=rngs)
        self.dense_out = layers.Dense(hidden, outputs, rngs=rngs)

    def __call__(self, x):
        """x (..., inputs) -> (..., outputs)."""
        return self.dense_out(jax.nn.gelu(self.dense_in(x), approximate=self.approximate))

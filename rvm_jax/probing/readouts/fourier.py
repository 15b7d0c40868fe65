"""Coordinates become sines and cosines (readouts of 4DS, MooG and arXiv 2605.19137), and queries of a readout."""

import math

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.probing.readouts.mlp import MLP

NUM_BASES = 16


def fourier_features(x, num_bases=NUM_BASES, layout='frequency'):
    """Sine and cosine of x * pi * 2^i, i = 0 .. num_bases - 1: (..., n) -> (..., 2 * n * num_bases), float32.

    x is in [0, 1] (queries) or [-1, 1] (pixels). Layout 'frequency' (DeepMind): all sines, then all cosines, each with
    the coordinates next to each other; 'coordinate' (arXiv 2605.19137): for each coordinate its sines, then its
    cosines. The same numbers in another order. The top frequency is above 100,000: never in half precision.
    """
    angles = x.astype(jnp.float32)[..., None, :] * (math.pi * 2.0 ** jnp.arange(num_bases))[:, None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-3)  # (..., 2, num_bases, n)
    if layout == 'coordinate':
        return rearrange(waves, '... s i n -> ... (n s i)')
    return rearrange(waves, '... s i n -> ... (s i n)')


class QueryNet(nnx.Module):
    """Positions (..., n) in [0, 1] to queries (..., width): Fourier features, then two dense layers."""

    def __init__(self, coordinates, width, *, gelu='tanh', layout='frequency', rngs):
        self.layout = layout
        self.mlp = MLP(2 * coordinates * NUM_BASES, width, width, gelu=gelu, rngs=rngs)

    def __call__(self, x):
        """x (..., n) -> (..., width)."""
        return self.mlp(fourier_features(x, layout=self.layout))

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rvm_jax.probing.readouts import readout_layers
from rvm_jax.probing.readouts.dense import DepthDecoder, pixel_positions


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


FEATURES_BTMD = draw(2, 3, 4, 8)
PIXELS_Q2 = pixel_positions(jnp.arange(0, 8, 2), jnp.arange(1, 8, 2), (8, 8))


def run(features, pixels):
    make = lambda: DepthDecoder(8, zeros=8, channels=16, heads=2, rngs=nnx.Rngs(0))  # noqa: E731
    return np.asarray(nnx.jit(lambda *args: make()(*args))(features, pixels))


def test_corners_of_an_image_are_at_one():
    found = pixel_positions(jnp.array([0, 4]), jnp.array([0, 3, 6]), (5, 7))
    np.testing.assert_allclose(found, [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]], atol=1e-6)


def test_pixels_and_frames_do_not_see_each_other():
    whole = run(FEATURES_BTMD, PIXELS_Q2)
    assert whole.shape == (2, 3, 16)
    np.testing.assert_allclose(run(FEATURES_BTMD[1:, 2:], PIXELS_Q2[5:7]), whole[1:, 2:, 5:7], atol=1e-5)
    assert np.ptp(whole, axis=2).min() > 1e-3


def test_taking_turns_changes_nothing(monkeypatch):
    whole = run(FEATURES_BTMD, PIXELS_Q2)
    monkeypatch.setattr(readout_layers, 'FLOATS_AT_ONCE', 5_000)
    np.testing.assert_allclose(run(FEATURES_BTMD, PIXELS_Q2), whole, atol=1e-5)

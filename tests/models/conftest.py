"""The small model and inputs whose golden values were made with the released code; weights follow a formula."""

import dataclasses
import types

import numpy as np
import pytest

from rvm_jax.conversion import mapping, official_rvm
from rvm_jax.models import build, layers, param_names
from rvm_jax.models.architecture import Architecture

ARCHITECTURE = Architecture(
    patch_size=16, width=32,
    encoder_layers=2, encoder_heads=2, encoder_head_dim=16, encoder_mlp=128,
    core_layers=2, core_heads=4, core_head_dim=8, core_mlp=96,
    decoder_width=48, decoder_layers=2, decoder_heads=4, decoder_head_dim=12, decoder_mlp=64,
    mask_ratio=0.75, image_size=64,
)  # fmt: skip


def weight(key, shape):
    """Pseudo-random numbers that depend on the released key alone; around 1 for norm scales, else around 0."""
    phase = sum(map(ord, key)) % 97
    u = 43758.5453 * np.sin(12.9898 * np.arange(1, np.prod(shape) + 1) + phase)
    values = 0.3 * (2 * (u - np.floor(u)) - 1) + key.endswith('scale')
    return values.reshape(shape).astype(np.float32)


@pytest.fixture(scope='session')
def architecture():
    return ARCHITECTURE


@pytest.fixture(scope='session')
def make_model():
    """make_model(execution, **switches that differ): the small model, weights by the formula."""

    def make(execution=layers.Execution(), **switches):  # noqa: B008 (frozen)
        model = build.abstract(dataclasses.replace(ARCHITECTURE, **switches), execution)
        shapes = param_names.named_shapes(model)
        keys = {
            name: next(iter(mapping.translate({name: 0}, mapping.invert(official_rvm.TABLE))[0])) for name in shapes
        }
        return param_names.from_named(
            model, {name: weight(keys[name], shape) for name, shape in shapes.items()}, 'formula'
        )

    return make


@pytest.fixture(scope='session')
def random_model():
    """random_model(arch): a model of random weights, drawn by NumPy, which compiles nothing."""

    def make(arch):
        model, rng = build.abstract(arch), np.random.default_rng(0)

        def draw(name, shape):
            values = rng.normal(0, 0.1, shape)
            return np.float32(values**2 + 1 if name.endswith(('scale', 'var')) else values)

        named = {name: draw(name, shape) for name, shape in param_names.named_shapes(model).items()}
        return param_names.from_named(model, named, 'random')

    return make


@pytest.fixture(scope='session')
def model(make_model):
    return make_model()


@pytest.fixture(scope='session')
def clips():
    """Two clips of three source and two target frames, float32 in [0, 1]; four of sixteen patches stay visible."""
    shape = (2, 3, 64, 64, 3), (2, 2, 64, 64, 3)
    index = [np.arange(np.prod(s), dtype=np.float64).reshape(s) for s in shape]
    return types.SimpleNamespace(
        source=(0.5 + 0.5 * np.sin(0.05 * index[0] + 0.3)).astype(np.float32),
        target=(0.5 + 0.5 * np.cos(0.031 * index[1])).astype(np.float32),
        deltas=np.array([[4, 20], [48, 51]]),
        visible=np.broadcast_to(np.int32([3, 10, 1, 8]), (2, 2, 4)),
    )

"""What every probe reads features from: any model path, at any depth, with its own weights or random ones."""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.errors import UserError
from rvm_jax.models import build, layers, param_names
from rvm_jax.models.rvm import to_unit_range

TAPS = 'core, core:BLOCKS, encoder, encoder:BLOCKS or encoder@FRACTION'
CORES = ('rvmrnn', 'self_attention')  # made of transformer blocks, so that core:BLOCKS means something


class Backbone:
    """A frozen model whose features are probed: `encode(frames, state) -> features (B, T, M, D) float32, state`.

    tap says which features:
    - 'core': the output of the model, which for RVM is its state; for an image encoder alone, its tokens
    - 'core:BLOCKS': after so many blocks of the core's transformer, before its norm; 0 is the input of the core
    - 'encoder': the tokens of the image encoder, each frame separately
    - 'encoder:BLOCKS': after so many blocks of the encoder; 0 is the embeddings
    - 'encoder@FRACTION': at a fraction of the encoder's depth, by the rule of 4DS (`block_at`)
    """

    def __init__(self, model, *, tap='core', path='', is_random=False, precision='float32'):
        self.tap, self.path, self.is_random, self.precision = tap, path, is_random, precision
        self.patch_size, self.num_prefix_tokens = model.patch_size, model.num_prefix_tokens
        self.image_size, self.width = model.image_size, model.encoder.width
        self.architecture = model.architecture
        self.part, self.block = _place(tap, model)
        self.window = model.window if self.part == 'core' else None
        self._model = model
        self._graphdef, self._params = nnx.split(model)
        self._images, self._within_core = jax.jit(self._image_tokens), jax.jit(self._core_tokens)

    @property
    def name(self) -> str:
        """The name of its row in a table."""
        name = os.path.basename(os.path.normpath(self.path))
        parts = [name] + [f'({self.tap})'] * (self.tap != 'core') + ['random weights'] * self.is_random
        return ' '.join(parts)

    def describe(self) -> dict[str, Any]:
        """The facts that results store about it."""
        return {
            'path': os.fspath(self.path),
            'tap': self.tap,
            'random_weights': self.is_random,
            'precision': self.precision,
            'parameters': self.num_parameters,
            'fingerprint': self.fingerprint(),
        }

    @property
    def num_parameters(self) -> int:
        """How many parameters the encoder, its adapters and the core have."""
        named = param_names.named_shapes(self._model)
        return sum(
            math.prod(shape) for name, shape in named.items() if name.split('/')[0] in ('encoder', 'adapters', 'core')
        )

    def replicate(self, mesh: jax.sharding.Mesh) -> None:
        """Copy the weights to all devices of a mesh once; otherwise they are copied with every batch."""
        self._params = jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))
        nnx.update(self._model, self._params)

    def encode(self, frames: Any, state: Any = None) -> tuple[jax.Array, Any]:
        """Features of frames (B, T, H, W, 3), uint8 or float in [0, 1], and the state for the next call.

        A model that does not stream sees windows with the number of frames of its training, as in
        `inference.encode_stream`.
        """
        if self.part == 'encoder':
            return self._images(self._params, jnp.asarray(frames)), ()
        if self.window is None:
            return self._core(frames, state)
        starts = range(0, frames.shape[1], self.window)
        windows = [self._core(frames[:, start : start + self.window])[0] for start in starts]
        return jnp.concatenate(windows, axis=1), ()

    def _core(self, frames, state=None):
        if self.block is None:
            return self._model.encode(frames, state)
        return self._within_core(self._params, jnp.asarray(frames), state)

    def _core_tokens(self, params, frames_BTHWC, state):
        model = nnx.merge(self._graphdef, params)
        return model.core_tokens(to_unit_range(frames_BTHWC), state, self.block)

    def _image_tokens(self, params, frames_BTHWC):
        model = nnx.merge(self._graphdef, params)
        return model.image_tokens(to_unit_range(frames_BTHWC), self.block).astype(jnp.float32)

    def fingerprint(self) -> str:
        """16 hex digits that identify what is probed: architecture, tap and all weights."""
        return param_names.fingerprint(self._model, self.tap)


def open_backbone(
    path: str,
    *,
    step: int | None = None,
    tap: str = 'core',
    random_seed: int | None = None,
    precision: str = 'float32',
) -> Backbone:
    """The Backbone at any model path; with random_seed it gets random weights, the floor of every probe.

    Raises UserError if there is no model, or if the model does not have such a tap.
    """
    from rvm_jax import pretrained

    if random_seed is None:
        return Backbone(pretrained.load(path, step=step, precision=precision), tap=tap, path=path, precision=precision)
    if precision not in layers.PRECISIONS:
        raise UserError(f'--precision {precision}', 'is not a choice', f'take {", ".join(layers.PRECISIONS)}')
    arch = pretrained.read_architecture(path)
    execution = layers.Execution(layers.PRECISIONS[precision])
    make = jax.jit(lambda: nnx.state(build.build(arch, execution, rngs=nnx.Rngs(random_seed))))
    model = build.abstract(arch, execution)
    nnx.update(model, make())
    return Backbone(model, tap=tap, path=path, is_random=True, precision=precision)


def block_at(fraction: float, num_layers: int) -> int:
    """How many blocks are before the tap at a fraction of the depth, by the rule of 4DS (arXiv 2412.15212, its code).

    4DS lists features as [embeddings, input of block 0, ..., input of the last block] and takes number
    int((num_layers + 1) * fraction) - 1, so that 0.95 of 24 blocks is after 21 of them.
    """
    return max(int((num_layers + 1) * fraction) - 2, 0)


def _place(tap, model):
    """('encoder' or 'core', blocks before the tap); None blocks means the output of the core."""
    encoder_layers, core, core_layers = (
        model.encoder.num_layers,
        model.architecture.core,
        model.architecture.core_layers,
    )
    name, at, fraction = tap.partition('@')
    name, colon, blocks = (name, '', '') if at else tap.partition(':')
    if tap == 'core':
        return 'core', None
    if tap == 'encoder':
        return 'encoder', encoder_layers
    if name == 'core' and colon and core not in CORES:
        raise UserError(
            f'--tap {tap}', f'needs a core of transformer blocks, which {core} is not', 'take core or encoder'
        )
    counted = {'core': core_layers, 'encoder': encoder_layers}.get(name, 0)
    if name in ('core', 'encoder') and colon and blocks.isdecimal() and int(blocks) <= counted:
        return name, int(blocks)
    if name == 'encoder' and at and _is_fraction(fraction):
        return 'encoder', block_at(float(fraction), encoder_layers)
    has = f'the encoder has {encoder_layers} blocks' + f', the core {core_layers}' * (core in CORES)
    raise UserError(f'--tap {tap}', f'is not a depth of this model: {has}', f'take {TAPS}')


def _is_fraction(text):
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False

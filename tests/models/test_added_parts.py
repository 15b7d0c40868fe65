"""A core and an encoder of a few lines each train, and are counted and planned as those of the package are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax import cli
from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.models import catalog, cost, layers, masking, patches
from rvm_jax.models.block_shapes import Blocks
from rvm_jax.models.cores.core import Core
from rvm_jax.training import sharding
from rvm_jax.training.state import make_programs

SMALL = [
    'data.image_size=16', 'data.num_target=2', 'batch_size=2', 'model.unroll=false', 'model.mask_ratio=0.5',
    'optim.warmup=0',
]  # fmt: skip
WIDTH, FRAMES, PATCHES = 64, 2, 4  # of the tiny recipe with SMALL


class Sum(Core):
    """s' = s + W e, output = s'."""

    sizes = {'tiny': (1, 1)}  # noqa: RUF012

    def __init__(self, width, rngs):
        self.dense = layers.Dense(width, width, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch, *, execution, rngs):
        return cls(arch.width, rngs)

    @staticmethod
    def shapes(arch, frames, num_tokens):
        return Blocks(1, frames * num_tokens, arch.width, 0, ())

    def init_state(self, batch, tokens):
        return jnp.zeros((batch, *tokens.shape[-2:]))

    def scan(self, tokens_BTMD, state=None, learning=None):
        state = self.init_state(len(tokens_BTMD), tokens_BTMD) if state is None else state
        features_BTMD = state[:, None] + jnp.cumsum(self.dense(tokens_BTMD).astype(jnp.float32), axis=1)
        return features_BTMD, features_BTMD[:, -1]


class Linear(nnx.Module):
    """Each patch times a matrix; no CLS, no positions."""

    mean, std, num_prefix_tokens, num_layers = (0.5,) * 3, (0.25,) * 3, 0, 0

    def __init__(self, patch_size, width, rngs):
        self.patch_size, self.width = patch_size, width
        self.patch_embed = layers.Dense(3 * patch_size**2, width, rngs=rngs)

    @classmethod
    def from_architecture(cls, arch, *, execution, rngs):
        return cls(arch.patch_size, arch.width, rngs)

    @classmethod
    def prefix_tokens(cls, arch):
        return cls.num_prefix_tokens

    @staticmethod
    def shapes(arch, frames, num_tokens):
        return Blocks(0, frames * num_tokens, arch.width, 0, ())

    def __call__(self, pixels_BHWC):
        return self.patch_embed(patches.to_patches(pixels_BHWC, self.patch_size))

    def encode_visible(self, pixels_BHWC, visible_BV):
        return self.patch_embed(masking.take_visible(patches.to_patches(pixels_BHWC, self.patch_size), visible_BV))


@pytest.fixture
def planned(monkeypatch):
    """planned(part) -> (config, Architecture) of the tiny recipe with Sum for its core, or Linear for its encoder."""
    monkeypatch.setitem(catalog.CORES, 'sum', catalog.CoreEntry(f'{__name__}:Sum'))
    monkeypatch.setitem(catalog.ENCODERS, 'linear', f'{__name__}:Linear')

    def make(part):
        config = configs.load('configs/tiny.py', [*SMALL, part])
        return config, resolve(config)[0]

    return make


def random_batch(config):
    rng, size = np.random.default_rng(0), config.data.image_size
    frames = rng.integers(0, 256, (config.batch_size, 2 * FRAMES, size, size, 3), np.uint8)
    deltas = np.full((config.batch_size, FRAMES), 4, np.int32)
    return {'source_BTHWC': frames[:, :FRAMES], 'target_BFHWC': frames[:, FRAMES:], 'deltas_BF': deltas}


@pytest.mark.parametrize('part', ['model.core=sum', 'model.encoder=linear'])
def test_an_added_part_trains_a_step(planned, part):
    programs = make_programs(*planned(part), jax.devices()[:1])
    before = programs.create()
    name = part.split('=')[0].removeprefix('model.')
    kept = jax.device_get(before['params'][name])
    batch = sharding.place_batch(programs.mesh, random_batch(planned(part)[0]))
    after, metrics = programs.train_step(before, batch, {})
    assert np.isfinite(metrics['loss'])
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), kept, jax.device_get(after['params'][name]))
    assert all(jax.tree.leaves(moved))


def test_an_added_core_is_counted_by_what_it_states(planned):
    _, arch = planned('model.core=sum')
    flops = cost.forward_flops(arch, num_source=FRAMES, num_target=FRAMES, image_size=16)
    assert flops['core'] == 2 * FRAMES * (1 + PATCHES) * WIDTH**2


def test_an_added_encoder_is_counted_by_what_it_states(planned):
    _, arch = planned('model.encoder=linear')
    flops = cost.forward_flops(arch, num_source=FRAMES, num_target=FRAMES, image_size=16)
    assert flops['encoder_source'] == 2 * FRAMES * PATCHES * WIDTH * 3 * arch.patch_size**2
    assert flops['encoder_target'] == flops['encoder_source'] / 2  # half of the patches are hidden


@pytest.mark.parametrize(('part', 'words'), [('core=sum', 'sum, 1 layers'), ('encoder=linear', 'linear, patch 8')])
def test_rvm_plan_takes_added_parts(planned, part, words, capsys):
    where = '--device', 'h100', '--devices', '1', f'--config.model.{part}'
    assert cli.run('plan', ['--config', 'configs/tiny.py', *where]) == 0
    assert words in capsys.readouterr().out


def test_an_unknown_core_is_refused_with_the_names_there_are(planned):
    with pytest.raises(configs.ConfigErrors, match='summ: is not a choice; did you mean sum'):
        planned('model.core=summ')

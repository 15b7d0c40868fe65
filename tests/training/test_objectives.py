"""A new objective is one function, and one line in OBJECTIVES."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.errors import ConfigErrors
from rvm_jax.models.rvm import to_unit_range
from rvm_jax.training import loss
from rvm_jax.training.loss import objective_of, pixel_loss
from rvm_jax.training.state import make_programs

SMALL = ['batch_size=2', 'data.image_size=16', 'data.num_source=1', 'data.num_target=1', 'model.unroll=false']


def color_loss(model, batch, visible_BFV, *, learning=None, **settings):
    """The mean color of each target frame is all that counts."""
    out = model.reconstruct(batch['source_BTHWC'], batch['target_BFHWC'], batch['deltas_BF'], visible_BFV)
    target_BFC = to_unit_range(batch['target_BFHWC']).mean((2, 3))
    return jnp.square(out.pixels.mean((2, 3)) - target_BFC).mean(), out


def test_an_objective_of_ones_own_is_trained(monkeypatch):
    monkeypatch.setitem(configs.OBJECTIVES, 'color', f'{__name__}:color_loss')
    config = configs.load('configs/tiny.py', [*SMALL, 'objective.name=color', 'optim.warmup=0.0'])
    programs = make_programs(config, resolve(config)[0], jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {
        'source_BTHWC': rng.integers(0, 256, (2, 1, 16, 16, 3), np.uint8),
        'target_BFHWC': rng.integers(0, 256, (2, 1, 16, 16, 3), np.uint8),
        'deltas_BF': np.int32([[3], [5]]),
    }
    state, losses = programs.create(), []
    for _ in range(3):
        state, metrics = programs.train_step(state, batch, {})
        losses.append(float(metrics['loss']))
    assert losses[2] < losses[1] < losses[0]


def test_an_unknown_objective_is_refused():
    with pytest.raises(ConfigErrors, match=r'objective\.name=pixel'):
        configs.load('configs/tiny.py', ['objective.name=pixel'])


def test_the_keys_of_the_config_are_the_settings():
    settings = configs.default().objective
    found = objective_of(settings)
    assert found.func is pixel_loss and found.keywords.keys() == set(settings) - {'name'}
    defaults = {name: one.default for name, one in inspect.signature(loss.pixel_loss).parameters.items()}
    assert found.keywords == {name: defaults[name] for name in found.keywords}  # a default is the same in both places


def test_a_run_from_before_objectives_had_names_still_opens():
    stored = configs.load('configs/tiny.py').to_dict()
    del stored['objective']['name']
    assert configs.from_dict(stored, 'config.json').objective.name == 'pixels'

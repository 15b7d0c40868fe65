"""The released way computes what ours does."""

import jax
import numpy as np
import pytest
from steps import OURS, RELEASED, lower

from rvm_jax import config as configs


@pytest.mark.parametrize('recipe', ['configs/tiny.py', 'configs/frozen_tiny.py'])
def test_both_ways_take_the_same_step(recipe):
    overrides = ['batch_size=2', 'data.image_size=16', 'model.mask_ratio=0.5', 'model.core_layers=1']
    config = configs.load(recipe, overrides)
    after, losses = {}, {}
    for way in (OURS, RELEASED):
        _, lowered, arguments = lower(config, way, jax.devices()[:1])
        state, metrics = lowered.compile({'xla_backend_optimization_level': 0})(*arguments)
        after[way], losses[way] = jax.tree.map(np.asarray, state), float(metrics['loss'])
    assert losses[RELEASED] == pytest.approx(losses[OURS], rel=1e-5)
    assert float(metrics['grad_norm']) > 0
    statistics = (jax.tree.leaves(after[way].get('statistics')) for way in (OURS, RELEASED))
    for ours, released in zip(*statistics, strict=True):
        np.testing.assert_allclose(released, ours, rtol=1e-4, atol=1e-6)

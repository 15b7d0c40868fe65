"""The released way computes what ours does."""

import jax
import numpy as np
import pytest
from flax import nnx
from steps import inlined, random_batch, released_loss

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.models import build
from rvm_jax.training.loss import pixel_loss


@pytest.mark.long
@pytest.mark.parametrize('recipe', ['configs/tiny.py', 'configs/frozen_tiny.py'])
def test_both_ways_have_the_same_loss(recipe):
    config = configs.load(recipe, ['batch_size=2', 'model.mask_ratio=0.5', 'model.unroll=false'])
    (arch, _), batch = resolve(config), random_batch(config)
    weights = nnx.state(build.build(arch, rngs=nnx.Rngs(0)))

    def loss_of(objective, way):
        graphdef, _ = nnx.split(build.abstract(arch, build.execution(way.model, 'cpu')))
        model = nnx.merge(graphdef, weights)
        visible_BFV = model.random_visible(jax.random.key(0), batch['target_BFHWC'].shape)
        return float(objective(model, batch, visible_BFV)[0])

    loss = loss_of(pixel_loss, config)
    assert np.isfinite(loss)
    assert loss_of(released_loss, inlined(config)) == pytest.approx(loss, rel=1e-5)


def test_the_released_way_leaves_the_recipe_as_it_was():
    config = configs.load('configs/tiny.py', ['model.unroll=false'])
    changed = inlined(config)
    assert (changed.model.attention, changed.model.remat, changed.model.unroll) == ('xla', 'none', 'true')
    assert (config.model.attention, config.model.unroll) == ('auto', 'false')

import dataclasses

import jax
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.models import architecture
from rvm_jax.models.layers import Execution
from rvm_jax.training import sharding
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.state import make_state

ARCHITECTURE = dataclasses.replace(architecture.SIZES['tiny'], encoder_layers=1, core_layers=1, decoder_width=0)


@pytest.fixture(scope='module')
def made():
    config = configs.default()
    config.mesh.data, config.mesh.fsdp = 2, 4
    mesh, optimizer = sharding.make_mesh(config.mesh), make_optimizer(config.optim, 10)
    _, abstract, _, create = make_state(ARCHITECTURE, Execution(), optimizer, 3, mesh)
    return abstract, create()


def test_the_state_is_what_was_announced(made):
    abstract, state = made
    assert set(state) == {'step', 'params', 'opt_state', 'key'}
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for expected, found in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
        assert found.sharding.is_equivalent_to(expected.sharding, found.ndim)


def test_the_state_is_created_already_sharded(made):
    params = made[1]['params']
    for state in (params, made[1]['opt_state'].inner_state[1][0].mu):
        kernel = state['encoder']['layers']['blocks']['mlp']['dense_in']['kernel']
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(1, 64 // 4, 256)}


def test_a_fresh_state_has_done_nothing(made):
    state = made[1]
    assert int(state['step']) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state['opt_state'].inner_state[1][0].mu))


def test_nothing_is_created_before_it_is_asked_for():
    config = configs.default()
    config.mesh.data = 1
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    before = len(jax.live_arrays())
    make_state(architecture.SIZES['h'], Execution(), make_optimizer(config.optim, 10), 0, mesh)
    assert len(jax.live_arrays()) == before


def test_parameters_and_masks_have_keys_of_their_own(made):
    model_key, train_key = jax.random.split(jax.random.key(3))
    np.testing.assert_array_equal(made[1]['key'], jax.random.key_data(train_key))
    assert (jax.random.key_data(model_key) != jax.random.key_data(train_key)).any()

import dataclasses

import jax
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.models import build
from rvm_jax.models.layers import Execution
from rvm_jax.objectives.pixel_loss import compared_losses, pixel_loss
from rvm_jax.training import sharding
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.state import make_state
from rvm_jax.training.step import make_eval_step, make_train_step

ARCHITECTURE = dataclasses.replace(
    build.SIZES['tiny'], encoder_layers=1, core_layers=1, decoder_layers=1, mask_ratio=0.5, image_size=16
)
RNG = np.random.default_rng(0)
BATCH = {
    'source_BTHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'target_BFHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'deltas_BF': RNG.integers(2, 9, (8, 2), np.int32),
}


class Run:
    """A mesh, its compiled step, and one fresh state kept on the host, because a step uses up the one it is given."""

    def __init__(self, data, fsdp, fresh=None):
        config = configs.default()
        config.mesh.data, config.mesh.fsdp = data, fsdp
        config.optim.warmup = 0.0
        self.mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
        optimizer = make_optimizer(config.optim, 10)
        self.graphdef, self.abstract, create = make_state(ARCHITECTURE, Execution(), optimizer, 0, self.mesh)
        self.fresh = jax.device_get(create()) if fresh is None else fresh
        self._step = make_train_step(self.graphdef, optimizer, pixel_loss)

    def state(self, **changes):
        return jax.device_put(self.fresh | changes, jax.tree.map(lambda leaf: leaf.sharding, self.abstract))

    def step(self, state, **changes):
        return self._step(state, sharding.place_batch(self.mesh, BATCH | changes))

    def losses(self, steps=3):
        state, losses = self.state(), []
        for _ in range(steps):
            state, metrics = self.step(state)
            losses.append(float(metrics['loss']))
        return losses


@pytest.fixture(scope='module')
def one():
    """One device."""
    return Run(1, 1)


@pytest.fixture(scope='module')
def losses(one):
    return one.losses()


def host(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(('data', 'fsdp'), [(8, 1), (2, 4)])
def test_eight_devices_equal_one(one, losses, data, fsdp):
    np.testing.assert_allclose(Run(data, fsdp, one.fresh).losses(), losses, rtol=1e-5)


def test_steps_learn_and_repeat_to_the_last_bit(one, losses):
    assert losses[2] < losses[1] < losses[0]
    assert one.losses() == losses


def test_a_step_counts_itself_and_keeps_the_key(one):
    state, metrics = one.step(one.state())
    assert int(state['step']) == 1 and float(metrics['grad_norm']) > 0
    np.testing.assert_array_equal(state['key'], one.fresh['key'])


def test_masks_follow_from_the_key_and_the_step(one):
    def loss(**changes):
        return float(one.step(one.state(**changes))[1]['loss'])

    first = loss()
    assert loss() == first
    assert loss(step=np.int32(1)) != first
    assert loss(key=one.fresh['key'] + np.uint32(1)) != first


def test_a_step_that_is_not_finite_changes_neither_parameters_nor_moments_and_is_counted(one):
    state, _ = one.step(one.state())
    before = host((state['params'], state['opt_state'].inner_state))
    source = BATCH['source_BTHWC'].copy()
    source[3, 0, 5, 5, 1] = np.nan
    state, metrics = one.step(state, source_BTHWC=source)
    assert not np.isfinite(float(metrics['loss']))
    assert (int(metrics['skipped_in_a_row']), int(metrics['skipped_steps'])) == (1, 1) and int(state['step']) == 2
    for left, right in zip(host((state['params'], state['opt_state'].inner_state)), before, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)
    state, metrics = one.step(state)
    assert (int(metrics['skipped_in_a_row']), int(metrics['skipped_steps'])) == (0, 1)
    assert any((left != right).any() for left, right in zip(host(state['params']), before, strict=False))


def test_the_buffers_of_the_old_state_are_reused(one):
    state = one.state()
    one.step(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state['params']))


def test_an_evaluation_sets_the_loss_beside_the_trivial_ones(one):
    eval_step = make_eval_step(one.graphdef, compared_losses)
    losses, out = jax.eval_shape(eval_step, one.abstract['params'], BATCH, jax.random.key(0))
    assert set(losses) == {'loss', 'copy_last', 'mean_color'} and all(loss.shape == () for loss in losses.values())
    assert out.pixels.shape == BATCH['target_BFHWC'].shape and out.visible.shape == (8, 2, 2)

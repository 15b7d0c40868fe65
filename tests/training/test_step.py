import collections
import dataclasses
import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from rvm_jax import config as configs
from rvm_jax.models import architecture
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.training import sharding
from rvm_jax.training.loss import compared_losses, pixel_loss
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.state import make_state
from rvm_jax.training.step import make_eval_step, make_train_step

ARCHITECTURE = dataclasses.replace(
    architecture.SIZES['tiny'], encoder_layers=1, core_layers=1, decoder_layers=1, mask_ratio=0.5, image_size=16
)
RNG = np.random.default_rng(0)
BATCH = {
    'source_BTHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'target_BFHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'deltas_BF': RNG.integers(2, 9, (8, 2), np.int32),
}


class Run:
    """A mesh, its compiled step, and one fresh state kept on the host, because a step uses up the one it is given."""

    def __init__(self, data, fsdp, fresh=None, sharded='params', **options):
        config = configs.default()
        config.mesh.data, config.mesh.fsdp = data, fsdp
        config.optim.warmup = 0.0
        self.mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
        optimizer = make_optimizer(config.optim, 10)
        execution = Execution(**options)
        self.gather = sharding.make_gather(self.mesh, sharded, execution.precision)
        execution = dataclasses.replace(execution, gather=self.gather)
        self.graphdef, self.abstract, _, create = make_state(ARCHITECTURE, execution, optimizer, 0, self.mesh, sharded)
        self.fresh = jax.device_get(create()) if fresh is None else fresh
        self._step = make_train_step(self.graphdef, optimizer, pixel_loss, self.abstract, self.gather)

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


@pytest.mark.parametrize(
    ('data', 'fsdp', 'sharded', 'remat'),
    [
        (8, 1, 'params', 'none'),
        (2, 4, 'params', 'none'),
        (2, 4, 'params', 'dots'),
        (2, 4, 'params', 'full'),
        (2, 4, 'optimizer', 'dots'),
    ],
)
def test_eight_devices_equal_one(one, losses, data, fsdp, sharded, remat):
    np.testing.assert_allclose(Run(data, fsdp, one.fresh, sharded, remat=remat).losses(), losses, rtol=1e-5)


def test_sharded_weights_give_the_losses_of_whole_ones_in_half_precision(one):
    options = {'precision': PRECISIONS['bf16']}
    whole, split = (Run(1, fsdp, one.fresh, **options).losses() for fsdp in (1, 4))
    np.testing.assert_allclose(split, whole, rtol=1e-3)


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


def test_gradients_whose_norm_overflows_are_skipped_and_not_clipped_to_nothing(one):
    decoder = one.fresh['params']['decoder']
    steep = decoder | {'detokenizer': jax.tree.map(lambda x: x * np.float32(1e16), decoder['detokenizer'])}
    state = one.state(params=one.fresh['params'] | {'decoder': steep})
    before = host((state['params'], state['opt_state'].inner_state))
    state, metrics = one.step(state)
    assert np.isfinite(float(metrics['loss'])) and np.isposinf(float(metrics['grad_norm']))
    assert (int(metrics['skipped_in_a_row']), int(metrics['skipped_steps'])) == (1, 1)
    for left, right in zip(host((state['params'], state['opt_state'].inner_state)), before, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def test_the_buffers_of_the_old_state_are_reused(one):
    state = one.state()
    one.step(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state['params']))


def test_an_evaluation_sets_the_loss_beside_the_trivial_ones(one):
    eval_step = make_eval_step(one.graphdef, compared_losses, one.abstract['params'])
    losses, out = jax.eval_shape(eval_step, one.abstract['params'], BATCH, jax.random.key(0))
    assert set(losses) == {'loss', 'copy_last', 'mean_color'} and all(loss.shape == () for loss in losses.values())
    assert out.pixels.shape == BATCH['target_BFHWC'].shape and out.visible.shape == (8, 2, 2)


def moved(data, fsdp, sharded, remat):
    """{collective: largest number of values that one of the compiled step's puts out on a device}."""
    run = Run(data, fsdp, {}, sharded, remat=remat)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(run.mesh, sharding.BATCH)), BATCH
    )
    program = run._step.lower(run.abstract, batch).compile().as_text()
    largest = collections.Counter()
    for shapes, kind in re.findall(r' = (.*?) (all-gather|all-reduce|reduce-scatter)(?:-start)?\(', program):
        sizes = [math.prod(map(int, dims.split(','))) for dims in re.findall(r'\[([\d,]+)\]', shapes)]
        largest[kind] = max([largest[kind], *sizes])
    return largest


@pytest.fixture
def deep(monkeypatch):
    """Stacks of three layers; returns the number of values in an MLP kernel of a layer."""
    deep = dataclasses.replace(ARCHITECTURE, encoder_layers=3, decoder_layers=3)
    monkeypatch.setitem(globals(), 'ARCHITECTURE', deep)
    return deep.width * deep.encoder_mlp


@pytest.mark.parametrize('remat', ['none', 'dots'])
def test_weights_are_gathered_a_layer_at_a_time_and_gradients_scattered(deep, remat):
    found = moved(1, 8, 'params', remat)
    assert found['all-gather'] == deep
    assert found['reduce-scatter'] == deep / 8
    assert found['all-reduce'] <= 3 * 256  # biases


def test_what_is_added_up_across_slices_is_in_parts_already(deep):
    found = moved(2, 4, 'params', 'dots')
    assert found['all-gather'] == deep and found['all-reduce'] == 3 * deep / 4


def test_the_other_shardings_do_move_all_parameters_or_gradients(deep):
    assert moved(8, 1, 'params', 'dots')['all-reduce'] == 3 * deep
    found = moved(1, 8, 'optimizer', 'dots')
    assert found['all-gather'] == 3 * deep and found['reduce-scatter'] == 3 * deep / 8
    assert found['all-reduce'] <= 3 * 256

import collections
import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from rvm_jax import config as configs
from rvm_jax.models import architecture
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.training import sharding
from rvm_jax.training.loss import compared_losses, pixel_loss
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.state import make_state
from rvm_jax.training.step import make_eval_step, make_train_step

# Stacks of three layers, so that a layer and all layers differ in size.
ARCHITECTURE = dataclasses.replace(
    architecture.SIZES['tiny'], encoder_layers=3, core_layers=1, decoder_layers=3, mask_ratio=0.5, image_size=16
)
LAYER = ARCHITECTURE.width * ARCHITECTURE.encoder_mlp  # numbers in the largest kernel of a layer
BIASES = 3 * ARCHITECTURE.encoder_mlp
RNG = np.random.default_rng(0)
BATCH = {
    'source_BTHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'target_BFHWC': RNG.random((8, 2, 16, 16, 3), np.float32),
    'deltas_BF': RNG.integers(2, 9, (8, 2), np.int32),
}


class Run:
    """A mesh, its compiled step, and one fresh state kept on the host, because a step uses up the one it is given."""

    def __init__(
        self, data, fsdp, fresh=None, sharded='params', objective=pixel_loss, accumulate=1, ema=0.0, **options
    ):
        config = configs.default()
        config.mesh.data, config.mesh.fsdp = data, fsdp
        config.optim.warmup = 0.0
        self.mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
        optimizer = make_optimizer(config.optim, 10)
        execution = Execution(**options)
        gather = sharding.make_gather(self.mesh, sharded, execution.precision)
        execution = dataclasses.replace(execution, gather=gather)
        self.graphdef, self.abstract, _, create = make_state(
            ARCHITECTURE, execution, optimizer, 0, self.mesh, sharded, has_ema=ema > 0
        )
        self.fresh = jax.device_get(create()) if fresh is None else fresh
        step = make_train_step(
            self.graphdef, optimizer, objective, self.abstract, gather, accumulate=accumulate, ema=ema
        )
        self.compiled = step.lower(self.abstract, self._place(BATCH)).compile()

    def _place(self, batch):
        return sharding.place_batch(self.mesh, batch)

    def state(self, **changes):
        return jax.device_put(self.fresh | changes, jax.tree.map(lambda leaf: leaf.sharding, self.abstract))

    def step(self, state, **changes):
        return self.compiled(state, self._place(BATCH | changes))

    def losses(self, steps=3):
        state, losses = self.state(), []
        for _ in range(steps):
            state, metrics = self.step(state)
            losses.append(float(metrics['loss']))
        return losses

    def moved(self):
        """{collective: largest number of values that one of the step's puts out on a device}."""
        largest = collections.Counter()
        program = self.compiled.as_text()
        for shapes, kind in re.findall(r' = (.*?) (all-gather|all-reduce|reduce-scatter)(?:-start)?\(', program):
            sizes = [math.prod(map(int, dims.split(','))) for dims in re.findall(r'\[([\d,]+)\]', shapes)]
            largest[kind] = max([largest[kind], *sizes])
        return largest


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
    ('data', 'fsdp', 'sharded', 'remat', 'gathered', 'scattered', 'added'),
    [
        (8, 1, 'params', 'dots', 0, 0, 3 * LAYER),
        # Weights are gathered one layer at a time, and each gradient goes to the device that has its part.
        pytest.param(1, 8, 'params', 'none', LAYER, LAYER / 8, BIASES, marks=pytest.mark.long),
        # What is added up across slices is in parts already.
        pytest.param(2, 4, 'params', 'dots', LAYER, LAYER / 4, 3 * LAYER / 4, marks=pytest.mark.long),
        pytest.param(2, 4, 'params', 'full', LAYER, LAYER / 4, 3 * LAYER / 4, marks=pytest.mark.long),
        pytest.param(2, 4, 'optimizer', 'dots', 3 * LAYER, 3 * LAYER / 4, 3 * LAYER / 4, marks=pytest.mark.long),
    ],
)
def test_eight_devices_equal_one_and_send_little(one, losses, data, fsdp, sharded, remat, gathered, scattered, added):
    many = Run(data, fsdp, one.fresh, sharded, remat=remat)
    np.testing.assert_allclose(many.losses(), losses, rtol=1e-5)
    moved = many.moved()
    assert (moved['all-gather'], moved['reduce-scatter']) == (gathered, scattered)
    assert moved['all-reduce'] == added or moved['all-reduce'] <= added == BIASES


@pytest.mark.parametrize(
    ('data', 'fsdp', 'sharded', 'accumulate'),
    [
        (1, 1, 'params', 4),
        pytest.param(2, 2, 'params', 2, marks=pytest.mark.long),
        pytest.param(1, 2, 'optimizer', 4, marks=pytest.mark.long),
    ],
)
def test_a_step_in_parts_equals_the_step_at_once(one, losses, data, fsdp, sharded, accumulate):
    parts = Run(data, fsdp, one.fresh, sharded, accumulate=accumulate)
    np.testing.assert_allclose(parts.losses(), losses, rtol=1e-5)


def test_a_step_in_parts_keeps_less(one):
    parts = Run(1, 1, one.fresh, accumulate=8)
    whole, part = (run.compiled.memory_analysis().temp_size_in_bytes for run in (one, parts))
    assert part < 0.8 * whole  # the rest is gradients, of which there are now two sets, because the model is tiny


def test_the_average_of_weights_follows_them(one):
    run = Run(1, 1, ema=0.24)
    state, expected = run.state(), run.fresh['params']
    for step in (1, 2, 3):
        state, _ = run.step(state)
        decay = min(0.24, (1 + step) / (10 + step))  # 0.18, 0.24, 0.24
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, state['params'])
    for found, wanted in zip(host(state['ema']), host(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert any((a != b).any() for a, b in zip(host(state['ema']), host(state['params']), strict=True))


@pytest.mark.long
def test_sharded_weights_learn_like_whole_ones_in_bfloat16(one):
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


def test_a_nonfinite_step_changes_nothing_and_is_counted(one):
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


def test_gradients_whose_norm_overflows_are_skipped(one):
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


def test_an_evaluation_has_the_loss_and_the_trivial_ones(one):
    eval_step = make_eval_step(one.graphdef, compared_losses, one.abstract['params'])
    losses, out = jax.eval_shape(eval_step, one.abstract['params'], BATCH, jax.random.key(0))
    assert set(losses) == {'loss', 'copy_last', 'mean_color'} and all(loss.shape == () for loss in losses.values())
    assert out.pixels.shape == BATCH['target_BFHWC'].shape and out.visible.shape == (8, 2, 2)

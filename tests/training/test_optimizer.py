import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, param_names
from rvm_jax.training.optimizer import decay_mask, learning_rate, make_optimizer, nonfinite_steps

PARAMS = {'attention': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones((2, 2))}, 'norm': {'scale': jnp.ones(2)}}


def optim(**changes):
    settings = configs.default().optim
    settings.update(changes)
    return settings


def update(settings, gradients, params=PARAMS, steps=10):
    """Parameters after one step at the peak learning rate."""
    optimizer = make_optimizer(settings, steps)
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state


def test_the_rate_warms_up_from_zero_and_decays_as_a_cosine():
    rate = learning_rate(optim(peak_lr=1e-3, end_lr=1e-4, warmup=0.1), 100)
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([0, 5e-4, 1e-3])
    assert float(rate(55)) == pytest.approx((1e-3 + 1e-4) / 2) and float(rate(100)) == pytest.approx(1e-4)


@pytest.mark.parametrize(('warmup', 'steps'), [(0.0, 10), (0.6, 1), (1.0, 10)])
def test_any_warm_up_leaves_a_step_to_decay_in(warmup, steps):
    rate = learning_rate(optim(peak_lr=1e-3, warmup=warmup), steps)
    assert max(float(rate(step)) for step in range(steps)) == pytest.approx(1e-3)
    assert float(rate(steps)) == 0


def test_decay_is_decided_by_the_name_of_every_parameter():
    arch = architecture.SIZES['tiny']
    params = nnx.to_pure_dict(nnx.state(build.abstract(build.dataclasses.replace(arch, gate_bias=True))))
    decayed = {param_names.path_name(path): value for path, value in jax.tree.leaves_with_path(decay_mask(params))}
    assert {name.split('/')[-1] for name, value in decayed.items() if value} == {'kernel'}
    kept = {name.split('/')[-1] for name, value in decayed.items() if not value}
    assert kept == {'bias', 'scale', 'cls_token', 'mask_token'}
    assert not decayed['encoder/layers/blocks/attention/query/bias']  # two axes, and still a bias


def test_a_parameter_of_unknown_kind_is_an_error():
    with pytest.raises(
        UserError, match='core/gains: is a parameter, and its name gains does not say whether weight decay'
    ):
        decay_mask({'core': {'gains': jnp.ones(3)}})


def test_without_a_gradient_only_what_decays_moves():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    moved, _ = update(optim(warmup=0.0, peak_lr=0.1, weight_decay=0.5), zeros)
    np.testing.assert_allclose(moved['attention']['kernel'], 1 - 0.1 * 0.5)
    np.testing.assert_array_equal(moved['attention']['bias'], 1)
    np.testing.assert_array_equal(moved['norm']['scale'], 1)


@pytest.mark.parametrize(('clip_norm', 'seen'), [(1.0, 1.0), (0.0, 300.0), (1000.0, 300.0)])
def test_the_gradient_is_clipped_by_its_global_norm(clip_norm, seen):
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 300 / np.sqrt(10)), PARAMS)
    _, state = update(optim(clip_norm=clip_norm, b1=0.0), gradients)
    first_moment = optax.tree.get(state, 'mu')
    assert float(optax.tree.norm(first_moment)) == pytest.approx(seen, rel=1e-5)


@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf])
def test_a_nonfinite_gradient_changes_nothing_and_is_counted(poison):
    optimizer = make_optimizer(optim(warmup=0.0), 10)
    good = jax.tree.map(jnp.ones_like, PARAMS)
    bad = good | {'norm': {'scale': jnp.array([1.0, poison])}}
    _, state = optimizer.update(good, optimizer.init(PARAMS), PARAMS)
    before, counts = state.inner_state, []
    for gradients in (bad, bad):
        updates, state = optimizer.update(gradients, state, PARAMS)
        counts.append(tuple(map(int, nonfinite_steps(state))))
        assert all((update == 0).all() for update in jax.tree.leaves(updates))
    for left, right in zip(jax.tree.leaves(before), jax.tree.leaves(state.inner_state), strict=True):
        np.testing.assert_array_equal(left, right)
    updates, state = optimizer.update(good, state, PARAMS)
    counts.append(tuple(map(int, nonfinite_steps(state))))
    assert counts == [(1, 1), (2, 2), (0, 2)] and any((update != 0).any() for update in jax.tree.leaves(updates))

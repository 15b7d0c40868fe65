import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.models.cores import selective_scan
from rvm_jax.models.cores.selective_scan import CausalConv, MambaState, SelectiveScan
from rvm_jax.models.layers import Execution

WIDTH, INNER, TOKENS = 20, 40, 3
SIZES = {'d_state': 5, 'd_conv': 4, 'expand': 2}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fresh(execution=Execution(), width=WIDTH):  # noqa: B008 (frozen)
    return SelectiveScan(width, **SIZES, execution=execution, rngs=nnx.Rngs(0))


def first_state(batch):
    return MambaState(jnp.zeros((batch, 3, TOKENS, INNER)), jnp.zeros((batch, TOKENS, 5, INNER)))


@nnx.jit
def run(mamba, u_BTMD, state):
    return mamba(u_BTMD, state)


def slopes(mamba, u_BTMD):
    """Gradients of the mean squared output for parameters and input."""
    graphdef, params = nnx.split(mamba)

    def loss(params, u_BTMD):
        return jnp.square(nnx.merge(graphdef, params)(u_BTMD, first_state(len(u_BTMD)))[0]).mean()

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, u_BTMD)


def by_hand(mamba, u_TD):
    """One token's output, in float64, one number at a time where that is clearer."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(mamba)))
    rank = p['dt_proj']['kernel'].shape[0]
    memory, a = np.zeros((INNER, 5)), []
    for u in u_TD.astype(np.float64):
        both = u @ p['in_proj']['kernel']
        a, z = [*a, both[:INNER]], both[INNER:]
        c = p['conv']['bias'].copy()
        for back in range(min(4, len(a))):
            c += p['conv']['kernel'][3 - back] * a[-1 - back]
        c = c / (1 + np.exp(-c))
        projected = c @ p['x_proj']['kernel']
        step = np.log1p(np.exp(projected[:rank] @ p['dt_proj']['kernel'] + p['dt_proj']['bias']))
        write, read = projected[rank : rank + 5], projected[rank + 5 :]
        for channel in range(INNER):
            decay = np.exp(-step[channel] * np.exp(p['A_log'][:, channel]))
            memory[channel] = decay * memory[channel] + step[channel] * c[channel] * write
        yield ((memory @ read + p['D'] * c) * z / (1 + np.exp(-z))) @ p['out_proj']['kernel']


def test_every_token_follows_the_recurrence():
    mamba, u_BTMD = fresh(), draw(2, 7, TOKENS, WIDTH)
    mamba.D[...] = draw(INNER, seed=1)
    out_BTMD, _ = run(mamba, u_BTMD, first_state(2))
    for clip, token in np.ndindex(2, TOKENS):
        expected = np.stack(list(by_hand(mamba, u_BTMD[clip, :, token])))
        np.testing.assert_allclose(out_BTMD[clip, :, token], expected, atol=1e-6)


def test_the_newest_tap_of_the_convolution_takes_this_frame():
    conv = CausalConv(4, 2, rngs=nnx.Rngs(0))
    conv.kernel[...], conv.bias[...] = jnp.zeros((4, 2)).at[0, 0].set(1.0).at[3, 1].set(1.0), jnp.zeros(2)
    a_BTMC = draw(1, 6, 1, 2)
    c_BTMC, recent_BKMC = conv(a_BTMC, 10 + jnp.arange(6.0).reshape(1, 3, 1, 2))
    np.testing.assert_allclose(c_BTMC[0, :, 0, 1], jax.nn.silu(a_BTMC[0, :, 0, 1]), rtol=1e-6)
    before = np.concatenate([[10, 12, 14], a_BTMC[0, :3, 0, 0]])
    np.testing.assert_allclose(c_BTMC[0, :, 0, 0], jax.nn.silu(before), rtol=1e-6)
    np.testing.assert_array_equal(recent_BKMC, a_BTMC[:, 3:])


def test_a_channel_starts_with_the_published_decays_and_steps():
    mamba = fresh(width=512)
    np.testing.assert_allclose(jnp.exp(mamba.A_log[...]), np.arange(1, 6)[:, None] * np.ones(1024), rtol=1e-6)
    np.testing.assert_array_equal(mamba.D[...], 1)
    steps = np.asarray(jax.nn.softplus(mamba.dt_proj.bias[...]))
    assert 0.999e-3 < steps.min() < 1.2e-3 and 0.08 < steps.max() < 0.1001
    assert abs(np.log10(steps).mean() + 2) < 0.1  # log-uniform between 1e-3 and 1e-1
    bounds = {'in_proj': 512**-0.5, 'x_proj': 1024**-0.5, 'dt_proj': 32**-0.5, 'out_proj': 1024**-0.5, 'conv': 0.5}
    for name, bound in bounds.items():
        largest = float(jnp.abs(getattr(mamba, name).kernel[...]).max())
        assert 0.99 * bound < largest <= bound, name


@pytest.mark.parametrize('at_once', [1, 4, 100])
def test_groups_of_tokens_change_neither_numbers_nor_gradients(monkeypatch, at_once):
    u_BTMD = draw(2, 5, TOKENS, WIDTH)
    unrolled = fresh(Execution(unroll=True))
    expected = run(unrolled, u_BTMD, first_state(2)), slopes(unrolled, u_BTMD)
    monkeypatch.setattr(selective_scan, 'AT_ONCE', at_once)
    grouped = fresh(Execution(platform='gpu'))
    found = jax.jit(grouped)(u_BTMD, first_state(2)), slopes(grouped, u_BTMD)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('scale', [1e-4, 1.0, 1e4])
def test_gradients_are_finite_over_many_frames_at_any_scale(scale):
    gradients = slopes(fresh(), scale * draw(1, 64, TOKENS, WIDTH))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_going_back_keeps_no_memory_of_the_frames():
    mamba = SelectiveScan(WIDTH, d_state=64, d_conv=4, expand=2, execution=Execution(), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(mamba)
    memory = TOKENS * 64 * INNER

    def stored(frames):
        state = MambaState(jnp.zeros((1, 3, TOKENS, INNER)), jnp.zeros((1, TOKENS, 64, INNER)))
        out_of = functools.partial(jax.vjp, lambda params, u: nnx.merge(graphdef, params)(u, state)[0])
        _, pull = jax.eval_shape(out_of, params, jnp.zeros((1, frames, TOKENS, WIDTH)))
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert (stored(64) - stored(32)) / 32 < memory / 2

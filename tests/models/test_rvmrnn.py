import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.models.layers import PRECISIONS, Execution


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_a_step_is_the_gated_recurrence(model):
    core, tokens, state = model.core, draw(2, 5, 32), 2 * draw(2, 5, 32) + 1

    @nnx.jit
    def by_hand(core):
        update = jax.nn.sigmoid(core.input_update(tokens) + core.state_update(state))
        reset = jax.nn.sigmoid(core.input_reset(tokens) + core.state_reset(state))
        normed = (state - state.mean(-1, keepdims=True)) / jnp.sqrt(state.var(-1, keepdims=True) + 1e-4)
        proposal = core.norm(core.layers(tokens[:, None], reset * normed * core.state_norm.scale[...]))[:, 0]
        return (1 - update) * state + update * proposal

    features, next_state = nnx.jit(type(core).step)(core, tokens, state)
    np.testing.assert_allclose(features, by_hand(core), atol=1e-4)
    np.testing.assert_array_equal(features, next_state)


def test_the_first_state_is_zero_and_leaves_only_the_proposal(model):
    core, tokens = model.core, draw(2, 5, 32)
    zeros = core.init_state(2, tokens)
    assert zeros.shape == (2, 5, 32) and zeros.dtype == jnp.float32 and not zeros.any()
    features, _ = core.step(tokens, zeros)
    proposal = core.norm(core.layers(tokens[:, None], zeros))[:, 0]
    np.testing.assert_allclose(features, jax.nn.sigmoid(core.input_update(tokens)) * proposal, atol=1e-4)


def test_scan_equals_stepping_from_any_state(model):
    core, tokens, state = model.core, draw(1, 4, 5, 32), draw(1, 5, 32)
    features, last = nnx.jit(type(core).scan)(core, tokens, state)
    step = nnx.jit(type(core).step)
    for t in range(4):
        frame, state = step(core, tokens[:, t], state)
        np.testing.assert_allclose(features[:, t], frame, atol=1e-4)
    np.testing.assert_allclose(last, state, atol=1e-4)


@pytest.mark.parametrize('name', PRECISIONS)
def test_features_and_state_stay_float32_in_every_precision(make_model, name):
    core = make_model(Execution(PRECISIONS[name])).core
    tokens = jax.ShapeDtypeStruct((2, 3, 5, 32), PRECISIONS[name].tokens)
    features, state = jax.eval_shape(core.scan, tokens)
    assert features.dtype == state.dtype == jnp.float32
    assert features.shape == (2, 3, 5, 32) and state.shape == (2, 5, 32)


def test_a_scan_compiles_one_step_for_any_number_of_frames(make_model):
    tokens = jax.ShapeDtypeStruct((1, 7, 5, 32), jnp.float32)

    def steps(unroll):
        return str(jax.make_jaxpr(make_model(Execution(unroll=unroll)).core.scan)(tokens)).count('unroll=7')

    assert (steps(False), steps(True)) == (0, 1)


def test_tokens_are_gated_by_the_state_of_the_same_token(model):
    core, tokens = model.core, draw(1, 5, 32)
    state = jnp.zeros((1, 5, 32)).at[0, 3].set(50.0)
    features, _ = core.step(tokens, state)
    assert jnp.abs(features[0, 3]).max() > 5 > jnp.abs(features[0, [0, 1, 2, 4]]).max()


def test_reading_inner_blocks_leaves_the_state_alone(model):
    core, tokens, state = model.core, draw(2, 5, 32), 2 * draw(2, 5, 32) + 1

    @nnx.jit
    def by_hand(core):
        reset = jax.nn.sigmoid(core.input_reset(tokens) + core.state_reset(state))
        keys = reset * core.state_norm(state)
        apply = lambda block, x, _: (block(x, keys), None)  # noqa: E731
        return [tokens, *(core.layers.fold(apply, tokens[:, None], blocks=slice(depth))[0][:, 0] for depth in (1, 2))]

    read = nnx.jit(lambda core: [core.step(tokens, state, block) for block in (0, 1, 2)])
    _, expected_state = core.step(tokens, state)
    assert core.num_layers == 2
    for (features, next_state), expected in zip(read(core), by_hand(core), strict=True):
        np.testing.assert_allclose(features, expected, atol=1e-4)
        np.testing.assert_allclose(next_state, expected_state, atol=1e-5)

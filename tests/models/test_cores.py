"""What every core promises, whichever it is."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.models.cores.gmmix import GMMix
from rvm_jax.models.cores.identity import Identity
from rvm_jax.models.cores.mamba import Mamba
from rvm_jax.models.cores.mambamix import MambaMix
from rvm_jax.models.cores.rvmrnn import RVMRNN
from rvm_jax.models.cores.self_attention import SelfAttention
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.models.param_names import path_name

FRAMES, TOKENS, WIDTH = 5, 3, 16
RELEASED = {'gelu': 'tanh', 'block_order': 'cross_mlp_self', 'gate_bias': False, 'state_norm': True}


def rvmrnn(width, depth, heads, mlp, shared, **switches):
    sizes = {'width': width, 'depth': depth, 'heads': heads, 'head_dim': width // heads, 'mlp': mlp}
    return RVMRNN(**sizes, **RELEASED, **switches, **shared)


MAKE = {
    'rvmrnn': lambda shared: rvmrnn(WIDTH, 2, 4, 64, shared),
    'rvmrnn_normed': lambda shared: rvmrnn(WIDTH, 2, 4, 64, shared, output_norm=True),
    'mamba': lambda shared: Mamba(width=WIDTH, depth=2, d_state=4, dropout=0.2, **shared),
    'mambamix': lambda shared: MambaMix(width=WIDTH, depth=2, heads=4, d_state=4, dropout=0.2, **shared),
    'gmmix': lambda shared: GMMix(width=WIDTH, depth=2, heads=4, d_state=4, dropout=0.2, **shared),
    'self_attention': lambda shared: SelfAttention(
        width=WIDTH, depth=2, heads=4, head_dim=4, mlp=64, gelu='tanh', time_code=True, **shared
    ),
    'identity': lambda shared: Identity(),
}
MAMBAS = ('mamba', 'mambamix', 'gmmix')
STREAMING = ('rvmrnn', 'rvmrnn_normed', *MAMBAS, 'identity')


@functools.cache
def make(name, execution=Execution()):  # noqa: B008 (frozen)
    return MAKE[name]({'execution': execution, 'rngs': nnx.Rngs(0)})


def clip(batch=2, frames=FRAMES, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, frames, TOKENS, WIDTH)).astype(np.float32)


@nnx.jit
def scan(core, tokens_BTMD, state=None, learning=None):
    return core.scan(tokens_BTMD, state, learning)


@nnx.jit
def step(core, tokens_BMD, state):
    return core.step(tokens_BMD, state)


def learning(*seeds):
    return TrainContext(jax.vmap(jax.random.key_data)(jnp.stack([jax.random.key(seed) for seed in seeds])))


@pytest.mark.parametrize('name', STREAMING)
def test_scan_equals_stepping_and_goes_on_from_a_carried_state(name):
    core, tokens = make(name), clip()
    assert core.is_streaming
    features, last = scan(core, tokens)
    state, first_two = core.init_state(2, jax.ShapeDtypeStruct(tokens.shape, jnp.float32)), []
    for t in range(FRAMES):
        frame, state = step(core, tokens[:, t], state)
        assert frame.dtype == jnp.float32
        np.testing.assert_allclose(features[:, t], frame, atol=1e-5)
        first_two = state if t == 1 else first_two
    rest, end = scan(core, tokens[:, 2:], first_two)
    np.testing.assert_allclose(rest, features[:, 2:], atol=1e-5)
    for found in (state, end):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, last)


@pytest.mark.parametrize('name', STREAMING)
def test_a_later_frame_cannot_change_the_past(name):
    core, tokens = make(name), clip()
    changed = tokens.copy()
    changed[:, 3] = clip(seed=1)[:, 3]
    before, after = scan(core, tokens)[0], scan(core, changed)[0]
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3] - after[:, 3]).max() > 0.1
    if name != 'identity':
        assert np.abs(before[:, 4] - after[:, 4]).max() > 1e-3


@pytest.mark.parametrize('name', MAKE)
def test_the_first_state_is_zero_and_clips_do_not_meet(name):
    core, tokens = make(name), clip()
    zeros = core.init_state(2, tokens)
    assert all(leaf.dtype == jnp.float32 and not leaf.any() for leaf in jax.tree.leaves(zeros))
    features, last = scan(core, tokens, zeros)
    assert jax.tree.map(jnp.shape, last) == jax.tree.map(jnp.shape, zeros)
    np.testing.assert_allclose(scan(core, tokens)[0], features, atol=1e-6)
    np.testing.assert_allclose(scan(core, tokens[1:])[0], features[1:], atol=1e-5)


@pytest.mark.parametrize('name, precision', [*((name, 'bf16') for name in MAKE), ('gmmix', 'official_mixed')])
def test_bfloat16_stays_close_with_float32_features_and_state(name, precision):
    tokens = jnp.asarray(clip(), PRECISIONS[precision].tokens)
    expected, _ = scan(make(name), tokens.astype(jnp.float32))
    features, state = scan(make(name, Execution(PRECISIONS[precision])), tokens)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((features, state)))
    assert np.abs(features - expected).mean() < 0.02


def test_unrolled_layers_and_frames_give_the_same():
    tokens = clip()
    np.testing.assert_allclose(
        scan(make('gmmix', Execution(unroll=True)), tokens)[0], scan(make('gmmix'), tokens)[0], atol=1e-5
    )


@pytest.mark.parametrize(
    'name, frames, remat',
    [*((name, 64, 'dots') for name in (*MAMBAS, 'rvmrnn_normed', 'self_attention')), ('gmmix', 3, 'full')],
)
def test_gradients_reach_every_parameter_over_many_frames(name, frames, remat):
    graphdef, params = nnx.split(make(name, Execution(remat=remat)))
    tokens = jnp.asarray(clip(1, frames))

    @jax.jit
    def slopes(params):
        def loss(params):
            features = nnx.merge(graphdef, params).scan(tokens, learning=learning(0))[0]
            return jnp.abs(features - tokens[:, ::-1]).mean()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes(params)):
        assert np.isfinite(leaf).all(), path
        is_key_bias = path_name(path).endswith('key/bias')  # softmax ignores a shift of all keys
        assert is_key_bias or np.abs(leaf).max() > 0, path


@pytest.mark.parametrize('name', MAMBAS)
def test_dropout_depends_on_the_clip_and_not_on_its_place(name):
    core, tokens = make(name), clip(1)
    tokens = np.concatenate([tokens, tokens, tokens])
    still, _ = scan(core, tokens)
    np.testing.assert_array_equal(still[0], still[1])
    dropped, _ = scan(core, tokens, None, learning(5, 6, 7))
    assert min(np.abs(dropped[i] - dropped[j]).max() for i, j in ((0, 1), (1, 2), (0, 2))) > 0.01
    assert np.abs(dropped - still).max() > 0.01
    elsewhere, _ = scan(core, tokens, None, learning(7, 5, 6))
    np.testing.assert_allclose(elsewhere, dropped[np.array([2, 0, 1])], atol=1e-5)


@pytest.mark.parametrize('name', [name for name in MAKE if name not in MAMBAS])
def test_the_other_cores_drop_nothing(name):
    core, tokens = make(name), clip()
    np.testing.assert_array_equal(scan(core, tokens, None, learning(1, 2))[0], scan(core, tokens)[0])


@pytest.mark.parametrize(
    'name, width, number',
    [
        ('mamba', 384, 3_859_200), ('mamba', 768, 15_091_200), ('mamba', 1024, 26_675_200),
        ('mambamix', 384, 10_957_056), ('mambamix', 768, 43_442_688), ('mambamix', 1024, 77_060_096),
        ('gmmix', 384, 12_138_240), ('gmmix', 768, 48_164_352), ('gmmix', 1024, 85_452_800),
        ('rvmrnn', 1024, 71_384_064),
    ],
)  # fmt: skip
def test_published_sizes_have_the_published_number_of_parameters(name, width, number):
    make = {
        'mamba': lambda shared: Mamba(width=width, depth=4, dropout=0.1, **shared),
        'mambamix': lambda shared: MambaMix(width=width, depth=4, heads=16, dropout=0.1, **shared),
        'gmmix': lambda shared: GMMix(width=width, depth=4, heads=16, dropout=0.1, **shared),
        'rvmrnn': lambda shared: rvmrnn(width, 4, 16, 4 * width, shared),
    }[name]
    core = nnx.eval_shape(lambda: make({'execution': Execution(), 'rngs': nnx.Rngs(0)}))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(core))) == number


def test_an_output_norm_is_on_the_features_and_not_on_the_state():
    core, tokens = make('rvmrnn_normed'), clip()
    plain = make('rvmrnn')
    features, state = scan(core, tokens)
    raw, raw_state = scan(plain, tokens)
    np.testing.assert_allclose(state, raw_state, atol=1e-6)
    expected = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_identity_has_no_parameters_and_changes_nothing():
    core, tokens = Identity(), clip()
    assert not jax.tree.leaves(nnx.state(core))
    np.testing.assert_array_equal(core.scan(tokens)[0], tokens)


def test_self_attention_sees_a_whole_window_and_carries_nothing():
    core, tokens = make('self_attention'), clip()
    assert not core.is_streaming and core.init_state(2, tokens) == ()
    changed = tokens.copy()
    changed[:, 4] = clip(seed=1)[:, 4]
    before, (after, state) = scan(core, tokens)[0], scan(core, changed)
    assert state == () and np.abs(before[:, 0] - after[:, 0]).max() > 1e-3
    frame, _ = step(core, tokens[:, 2], ())
    np.testing.assert_allclose(frame, scan(core, tokens[:, 2:3])[0][:, 0], atol=1e-6)


def test_a_time_code_tells_frames_apart():
    tokens = np.repeat(clip(1, 1), 2, axis=1)

    def spread(time_code):
        core = SelfAttention(width=WIDTH, depth=1, heads=4, head_dim=4, mlp=64, gelu='tanh', time_code=time_code,
                             execution=Execution(), rngs=nnx.Rngs(0))  # fmt: skip
        features = scan(core, tokens)[0]
        return np.abs(features[:, 0] - features[:, 1]).max()

    assert spread(False) < 1e-6 and spread(True) > 0.1

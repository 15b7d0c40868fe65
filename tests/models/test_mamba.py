import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rvm_jax.models.cores.mamba import Mamba, MambaBlock
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution

SHARED = {'d_state': 4, 'd_conv': 4, 'expand': 2, 'execution': Execution()}
X_BTMD = np.random.default_rng(0).normal(size=(2, 6, 5, 16)).astype(np.float32)


def make(**sizes):
    return Mamba(width=16, rngs=nnx.Rngs(0), **SHARED, **sizes)


def test_tokens_do_not_mix():
    core, changed = make(depth=2, dropout=0.0), X_BTMD.copy()
    changed[:, :, 3] = 0
    moved = np.abs(core.scan(changed)[0] - core.scan(X_BTMD)[0]).max((0, 1, 3))
    np.testing.assert_array_equal(moved > 1e-3, [False, False, False, True, False])


def test_a_state_is_as_large_as_its_layers_tokens_and_channels():
    state = make(depth=3, dropout=0.0).init_state(2, jax.ShapeDtypeStruct((7, 16), jnp.bfloat16))
    assert state.recent_BKMC.shape == (3, 2, 3, 7, 32) and state.memory_BMNC.shape == (3, 2, 7, 4, 32)


def test_what_a_layer_adds_is_dropped_number_by_number():
    block = MambaBlock(16, dropout=0.25, rngs=nnx.Rngs(0), **SHARED)
    state = jax.tree.map(lambda x: x[0], make(depth=1, dropout=0.0).init_state(2, X_BTMD))
    learning = TrainContext(jnp.arange(4, dtype=jnp.uint32).reshape(2, 2))
    whole, dropped = block.change(X_BTMD, state, None)[0], block.change(X_BTMD, state, learning)[0]
    kept = np.asarray(dropped) != 0
    assert abs(kept.mean() - 0.75) < 0.05
    np.testing.assert_allclose(np.asarray(dropped)[kept], np.asarray(whole)[kept] / 0.75, rtol=1e-5)

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.models.cores.gmmix import GMMix
from rvm_jax.models.cores.mambamix import MambaMix, SpatialBlock
from rvm_jax.models.dropout import TrainContext
from rvm_jax.models.layers import Execution

X_BTMD = np.random.default_rng(0).normal(size=(2, 40, 3, 16)).astype(np.float32)
LEARNING = TrainContext(jnp.arange(4, dtype=jnp.uint32).reshape(2, 2))


def silent(dense):
    dense.kernel[...], dense.bias[...] = jnp.zeros_like(dense.kernel[...]), jnp.zeros_like(dense.bias[...])


@pytest.mark.parametrize('quiet', ('attention.out', 'mlp.dense_out'))
def test_learning_drops_the_residuals_of_whole_frames(quiet):
    block = SpatialBlock(16, 4, dropout=0.25, execution=Execution(), rngs=nnx.Rngs(0))
    part, dense = quiet.split('.')
    silent(getattr(getattr(block, part), dense))
    change, still = block(X_BTMD, LEARNING) - X_BTMD, block(X_BTMD, None) - X_BTMD
    kept_BT = np.abs(change).max((2, 3)) > 0
    assert 0.6 < kept_BT.mean() < 0.9 and not (kept_BT[0] == kept_BT[1]).all()
    if quiet == 'mlp.dense_out':  # nothing else is dropped from attention
        np.testing.assert_allclose(change[kept_BT], still[kept_BT] / 0.75, atol=1e-5)


def test_tokens_of_a_frame_mix_and_frames_go_forward():
    core = MambaMix(width=16, depth=1, heads=4, d_state=4, dropout=0.0, execution=Execution(), rngs=nnx.Rngs(0))
    changed = X_BTMD[:1, :4].copy()
    changed[:, 1, 2] = 0
    moved_TM = np.abs(core.scan(changed)[0] - core.scan(X_BTMD[:1, :4])[0]).max((0, 3)) > 1e-6
    np.testing.assert_array_equal(moved_TM, np.repeat([[False], [True], [True], [True]], 3, axis=1))


@pytest.mark.parametrize('bias, opens', [(-100.0, False), (100.0, True)])
def test_a_gate_lets_time_in_or_keeps_it_out(bias, opens):
    sizes = {'width': 16, 'depth': 1, 'heads': 4, 'd_state': 4, 'dropout': 0.0, 'execution': Execution()}
    gated, mixed = GMMix(**sizes, rngs=nnx.Rngs(0)), MambaMix(**sizes, rngs=nnx.Rngs(0))
    block = gated.layers.blocks
    block.gate.bias[...] = jnp.full_like(block.gate.bias[...], bias)
    if not opens:
        silent_time = mixed.layers.blocks.temporal.mamba.out_proj
        silent_time.kernel[...] = jnp.zeros_like(silent_time.kernel[...])
    np.testing.assert_allclose(gated.scan(X_BTMD)[0], mixed.scan(X_BTMD)[0], atol=1e-5)

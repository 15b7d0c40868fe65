import os

import jax
import jax.numpy as jnp
import pytest

from rvm_jax import arithmetic
from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.training.optimizer import learning_rate
from rvm_jax.training.state import make_programs

ODD = {
    'jax_enable_x64': True, 'jax_default_prng_impl': 'rbg', 'jax_numpy_dtype_promotion': 'strict',
    'jax_numpy_rank_promotion': 'raise', 'jax_random_seed_offset': 7,
}  # fmt: skip


@pytest.fixture
def odd_settings():
    before = {name: getattr(jax.config, name) for name in ODD}
    for name, value in ODD.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def facts():
    config = configs.load('configs/tiny.py', ['steps=20'])
    state = make_programs(config, resolve(config)[0], devices=jax.devices()[:1]).abstract_state
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), state)
    draw = jax.random.bits(jax.random.split(jax.random.key(3))[1])
    return shapes, int(draw), str(jnp.asarray(learning_rate(config.optim, 20)(3)).dtype)


def test_the_state_of_a_run_does_not_depend_on_a_shell(odd_settings):
    with arithmetic.our_settings():
        ours = facts()
    assert jax.config.jax_enable_x64, 'the program around it has its own settings again'
    kinds = {kind for kind in jax.tree.leaves(ours[0]) if isinstance(kind, str)}
    assert kinds == {'float32', 'int32', 'uint32', 'bool'} and ours[2] == 'float32'
    for name in ODD:
        jax.config.update(name, arithmetic.SETTINGS[name])
    assert facts() == ours


def test_variables_that_would_change_it_are_taken_out_and_named(monkeypatch, capsys):
    given = {'JAX_ENABLE_X64': 'True', 'JAX_DEFAULT_PRNG_IMPL': 'threefry2x32', 'JAX_RANDOM_SEED_OFFSET': '0',
             'JAX_THREEFRY_PARTITIONABLE': 'off', 'JAX_ENABLE_CUSTOM_PRNG': '', 'JAX_PLATFORMS': 'cpu'}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    arithmetic.fix_environment()
    assert [line.partition(' ')[0] for line in capsys.readouterr().err.splitlines()] == [
        'JAX_ENABLE_X64=True', 'JAX_THREEFRY_PARTITIONABLE=off'
    ]  # fmt: skip
    assert [name for name in given if name in os.environ] == ['JAX_PLATFORMS']

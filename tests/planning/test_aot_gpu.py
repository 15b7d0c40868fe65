"""Every recipe is traced for GPUs, which needs none: JAX refuses what cuDNN cannot compute while it traces."""

import glob

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as stablehlo

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.planning import aot, program_checks
from rvm_jax.training import sharding

QUICK = 'configs/rvm_s.py', 'configs/dinov2_rvmrnn.py', 'configs/dinov3_gmmix.py'
RECIPES = [
    pytest.param(path, marks=() if path in QUICK else pytest.mark.long) for path in sorted(glob.glob('configs/*.py'))
]
FORWARD, BACKWARD = 'dot_product_attention_fwd_wrapper', 'dot_product_attention_bwd_wrapper'


def planned(config):
    """What functions of a plan take first: a config and its Architecture."""
    return config, resolve(config)[0]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A CPU that takes itself for a GPU with cuDNN."""
    monkeypatch.setattr(sharding, 'platform', lambda mesh: 'gpu')
    monkeypatch.setattr(stablehlo, 'check_cudnn_version', lambda: 91000)


def traced(recipe, *overrides):
    """The train step of one clip as JAX traces it, layers and frames in loops, which is quick."""
    plain = ['batch_size=1', 'accumulate=1', 'model.precision=bf16', 'model.unroll=false', 'mesh.fsdp=1']
    config = configs.load(recipe, [*plain, *overrides])
    return config, aot.trace_step(*planned(config), jax.devices()[:1]).jaxpr


def calls(jaxpr, primitive):
    """How often a program runs a primitive, loops and all."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        often = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', value)
            total += often * calls(inner, primitive) if hasattr(inner, 'eqns') else 0
    return total


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_computes_fused_attention_once_on_a_gpu(recipe):
    config, jaxpr = traced(recipe)
    needed = program_checks.needed_calls(program_checks.fused_attentions(*planned(config), 'gpu'))
    assert needed.backward > 0
    assert (calls(jaxpr, FORWARD), calls(jaxpr, BACKWARD)) == needed


def test_recomputing_everything_runs_attention_twice():
    config, jaxpr = traced('configs/tiny.py', 'model.remat=full')
    needed = program_checks.needed_calls(program_checks.fused_attentions(*planned(config), 'gpu'))
    assert calls(jaxpr, FORWARD) > needed.forward and calls(jaxpr, BACKWARD) == needed.backward

"""Our cores against PyTorch ones with the same weights, see tests/goldens/README.md."""

import ast
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import torch_cores
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import param_names
from rvm_jax.models.layers import PRECISIONS, Execution

TINY = pathlib.Path(__file__).parents[1] / 'goldens' / 'torch_cores_tiny.npz'
PUBLIC = pathlib.Path(__file__).parents[3] / 'shared' / 'fixtures' / 'cores'
KINDS = ('mamba', 'mambamix', 'gmmix', 'rvmrnn')
HEADS = 2
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def tiny():
    with np.load(TINY) as file:
        return dict(file)


def weights_of(reference, kind):
    prefix = f'{kind}/params/'
    return {name.removeprefix(prefix): array for name, array in reference.items() if name.startswith(prefix)}


def make(weights, kind, heads=HEADS, precision='float32'):
    sizes, named = torch_cores.read_torch_core(weights, kind, heads)
    execution = Execution(PRECISIONS[precision])
    core = nnx.eval_shape(lambda: torch_cores.CORES[kind](**sizes, execution=execution, rngs=nnx.Rngs(0)))
    return param_names.from_named(core, named, 'test')


def scan(core, tokens):
    return nnx.jit(type(core).scan)(core, jnp.asarray(tokens))[0]


@pytest.mark.parametrize('kind', KINDS)
def test_a_core_with_pytorch_weights_gives_what_pytorch_gives(tiny, kind):
    core = make(weights_of(tiny, kind), kind)
    np.testing.assert_allclose(scan(core, tiny['x']), tiny[f'{kind}/y'], atol=TOLERANCE)


@pytest.mark.parametrize('kind', KINDS)
def test_bfloat16_stays_close(tiny, kind):
    core = make(weights_of(tiny, kind), kind, precision='bf16')
    error = np.abs(scan(core, tiny['x']) - tiny[f'{kind}/y'])
    assert 1e-5 < error.mean() < 0.02 and error.max() < 0.1


@pytest.mark.skipif(not PUBLIC.is_dir(), reason='no arrays of the public code')
@pytest.mark.parametrize('kind', ('mamba', 'mambamix', 'gmmix'))
def test_the_public_code_agrees(kind):
    with np.load(PUBLIC / f'{kind}.npz') as file:
        reference = dict(file)
    weights = {name.removeprefix('params/'): array for name, array in reference.items() if name.startswith('params/')}
    heads = ast.literal_eval(str(reference['config'])).get('spatial_num_heads', 1)
    np.testing.assert_allclose(scan(make(weights, kind, heads), reference['x']), reference['y'], atol=TOLERANCE)


def test_sizes_are_read_off_the_shapes(tiny):
    sizes, named = torch_cores.read_torch_core(weights_of(tiny, 'gmmix'), 'gmmix', HEADS)
    assert sizes.items() >= {'width': 8, 'depth': 2, 'heads': 2, 'd_state': 3, 'd_conv': 4, 'expand': 2}.items()
    assert named['layers/1/temporal/mamba/A_log'].shape == (3, 16)
    assert named['layers/0/spatial/attention/key/kernel'].shape == (8, 2, 4)
    assert named['layers/1/gate/kernel'].shape == (16, 8)


def test_the_core_of_a_whole_checkpoint_is_found(tiny):
    core = weights_of(tiny, 'mambamix')
    whole = {f'model.sequential_core.{name}': array for name, array in core.items()}
    whole |= {'model.readout.classifier.weight': np.zeros((3, 8)), 'loss_fn.log_var': np.zeros(2)}
    for named in (whole, {f'model.{name}': array for name, array in core.items()}):
        found = torch_cores.read_torch_core(named, 'mambamix', HEADS)[1]
        expected = torch_cores.read_torch_core(core, 'mambamix', HEADS)[1]
        assert found.keys() == expected.keys()
        np.testing.assert_array_equal(found['layers/1/spatial/mlp/dense_in/kernel'],
                                      expected['layers/1/spatial/mlp/dense_in/kernel'])  # fmt: skip


@pytest.mark.parametrize(
    'change, complaint',
    [
        (lambda w: w.pop('gates.1.bias'), 'missing layers/1/gate/bias'),
        (lambda w: w.update({'gates.0.2.weight': np.zeros((8, 8))}), 'unexpected gates.0.2.weight'),
        (lambda w: w.update({'output_norm.bias': np.zeros(9)}), r'output_norm/bias is \(9,\), expected \(8,\)'),
        (lambda w: w.update({'gates.0.weight': np.zeros((8, 8))}), r'layers/0/gate/kernel is \(8, 8\)'),
        (lambda w: w.update({'spatial_blocks.0.sa_attn.in_proj_bias': np.zeros(21)}), r'query/bias is \(7,\)'),
        (lambda w: w.update({'mamba_blocks.1.mamba.conv1d.weight': np.zeros((16, 2, 4))}), r'conv/kernel is'),
        (lambda w: w.pop('mamba_blocks.0.mamba.A_log'), 'sizes of a gmmix core cannot be read'),
    ],
)
def test_what_is_missing_has_no_place_or_is_misshapen_is_named(tiny, change, complaint):
    weights = weights_of(tiny, 'gmmix')
    change(weights)
    with pytest.raises(UserError, match=complaint):
        torch_cores.read_torch_core(weights, 'gmmix', HEADS, 'core.ckpt')


def test_a_core_of_another_kind_is_refused(tiny):
    with pytest.raises(UserError, match=r'core\.ckpt.*unexpected gates\.0'):
        torch_cores.read_torch_core(weights_of(tiny, 'gmmix'), 'mambamix', HEADS, 'core.ckpt')
    with pytest.raises(UserError, match='sizes of a rvmrnn core'):
        torch_cores.read_torch_core(weights_of(tiny, 'gmmix'), 'rvmrnn', HEADS, 'core.ckpt')


def test_heads_that_do_not_divide_the_width_are_refused(tiny):
    with pytest.raises(UserError, match='heads=3'):
        torch_cores.read_torch_core(weights_of(tiny, 'gmmix'), 'gmmix', 3)

"""Temporal cores of the public PyTorch code of arXiv 2605.19137: its parameter names, and its layouts made ours.

Names are those of a core's state dict. In a whole model's they follow 'sequential_core.', in a Lightning checkpoint
'model.' comes first, and 'loss_fn.' keys are scalars that balance losses.
"""

import re

import numpy as np
from flax import nnx

from rvm_jax.conversion import mapping
from rvm_jax.errors import UserError
from rvm_jax.models import layers, param_names
from rvm_jax.models.cores.gmmix import GMMix
from rvm_jax.models.cores.mamba import Mamba
from rvm_jax.models.cores.mambamix import MambaMix
from rvm_jax.models.cores.rvmrnn import RVMRNN


def _dense(theirs, ours):
    return ((f'{theirs}.weight', f'{ours}/kernel'), (f'{theirs}.bias', f'{ours}/bias'))


def _norm(theirs, ours):
    return ((f'{theirs}.weight', f'{ours}/scale'), (f'{theirs}.bias', f'{ours}/bias'))


def _attention(theirs, ours):
    """nn.MultiheadAttention, whose fused projection `_unfused` has taken apart."""
    projections = (_dense(f'{theirs}.{part}', f'{ours}/{part}') for part in ('query', 'key', 'value'))
    return sum(projections, ()) + _dense(f'{theirs}.out_proj', f'{ours}/out')


def _mlp(theirs, ours):
    return _dense(f'{theirs}.fc1', f'{ours}/dense_in') + _dense(f'{theirs}.fc2', f'{ours}/dense_out')


def _mamba(theirs, ours):
    names = {name: name for name in ('in_proj', 'x_proj', 'dt_proj', 'out_proj')} | {'conv1d': 'conv'}
    dense = sum((_dense(f'{theirs}.mamba.{their}', f'{ours}/mamba/{our}') for their, our in names.items()), ())
    same = tuple((f'{theirs}.mamba.{name}', f'{ours}/mamba/{name}') for name in ('A_log', 'D'))
    return _norm(f'{theirs}.norm', f'{ours}/norm') + dense + same


OUTPUT_NORM = _norm('output_norm', 'output_norm')
MIX = (
    *_norm('spatial_blocks.#.sa_norm', 'layers/#/spatial/attention_norm'),
    *_attention('spatial_blocks.#.sa_attn', 'layers/#/spatial/attention'),
    *_norm('spatial_blocks.#.mlp_norm', 'layers/#/spatial/mlp_norm'),
    *_mlp('spatial_blocks.#.mlp', 'layers/#/spatial/mlp'),
    *_mamba('mamba_blocks.#', 'layers/#/temporal'),
    *OUTPUT_NORM,
)
RNN = (
    *sum((_dense(f'{gate}', f'{gate}') for gate in ('input_update', 'input_reset', 'state_update', 'state_reset')), ()),
    *_norm('state_layer_norm', 'state_norm'),
    *_norm('transformer.layers.#.ca_norm', 'layers/#/cross_attention_norm'),
    *_attention('transformer.layers.#.ca_attn', 'layers/#/cross_attention'),
    *_norm('transformer.layers.#.mlp_norm', 'layers/#/mlp_norm'),
    *_mlp('transformer.layers.#.mlp', 'layers/#/mlp'),
    *_norm('transformer.layers.#.sa_norm', 'layers/#/attention_norm'),
    *_attention('transformer.layers.#.sa_attn', 'layers/#/attention'),
    *_norm('transformer.output_norm', 'norm'),
    *OUTPUT_NORM,
)
TABLES = {
    'mamba': (*_mamba('mamba_blocks.#', 'layers/#'), *OUTPUT_NORM),
    'mambamix': MIX,
    'gmmix': (*MIX, *_dense('gates.#', 'layers/#/gate')),
    'rvmrnn': RNN,
}


def read_torch_core(named, kind, heads=16, origin='core'):
    """(sizes, our named arrays) of a core's state dict {name: array}, or of a whole model's that has one.

    kind: 'mamba', 'mambamix', 'gmmix' or 'rvmrnn'; heads of its attention, which no shape tells; sizes are keywords of
    the core's class. Raises UserError, naming origin, for names that are missing, have no place or are misshapen.
    """
    arrays = _unfused(_core_part(named))
    try:
        sizes = SIZES[kind](arrays, heads)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            origin, f'sizes of a {kind} core cannot be read: {error} is missing or misshapen', 'name the right core'
        ) from error
    if sizes['width'] % heads:
        raise UserError(f'heads={heads}', f'does not divide the width of {origin}, {sizes["width"]}', 'give its heads')
    renamed, unknown = mapping.translate(arrays, TABLES[kind])
    found = {name: _our_layout(name, array, sizes) for name, array in renamed.items()}
    core = nnx.eval_shape(lambda: CORES[kind](**sizes, execution=layers.Execution(), rngs=nnx.Rngs(0)))
    shapes = {name: array.shape for name, array in (found | {name: arrays[name] for name in unknown}).items()}
    param_names.compare(param_names.named_shapes(core), shapes, origin)
    return sizes, found


def _core_part(named):
    """The core's entries as float32 arrays, without what stands before their names."""
    named = {name.removeprefix('model.'): array for name, array in named.items() if not name.startswith('loss_fn.')}
    prefix = 'sequential_core.'
    core = {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}
    return {name: np.asarray(array, np.float32) for name, array in (core or named).items()}


def _unfused(arrays):
    """Projections to query, key and value, one below the other, as three."""
    apart = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r'(.*)\.in_proj_(weight|bias)', name):
            for part, piece in zip(('query', 'key', 'value'), np.array_split(array, 3), strict=True):
                apart[f'{match[1]}.{part}.{match[2]}'] = piece
        else:
            apart[name] = array
    return apart


def _our_layout(name, array, sizes):
    """Inputs before outputs, heads apart; a misshapen array comes back as it is, for the comparison to find."""
    width, heads = sizes['width'], sizes.get('heads', 1)
    if name.endswith('conv/kernel'):
        return array.T.squeeze(1) if array.ndim == 3 and array.shape[1] == 1 else array
    if array.ndim == 2:
        array = array.T
    split = (heads, width // heads)
    if re.search(r'(query|key|value)/(kernel|bias)$', name) and array.shape[-1] == width:
        return array.reshape(*array.shape[:-1], *split)
    if name.endswith('attention/out/kernel') and array.shape[0] == width:
        return array.reshape(*split, *array.shape[1:])
    return array


def _depth(arrays, pattern):
    return len({match[1] for name in arrays if (match := re.match(pattern, name))})


def _mamba_sizes(arrays, heads):
    inner, d_state = arrays['mamba_blocks.0.mamba.A_log'].shape
    width = len(arrays['mamba_blocks.0.norm.weight'])
    return {
        'width': width,
        'depth': _depth(arrays, r'mamba_blocks\.(\d+)\.'),
        'd_state': d_state,
        'd_conv': arrays['mamba_blocks.0.mamba.conv1d.weight'].shape[-1],
        'expand': inner // width,
        'dropout': 0.1,
    }


def _mix_sizes(arrays, heads):
    return _mamba_sizes(arrays, heads) | {'heads': heads}


def _rvmrnn_sizes(arrays, heads):
    width = len(arrays['output_norm.weight'])
    return {
        'width': width,
        'depth': _depth(arrays, r'transformer\.layers\.(\d+)\.'),
        'heads': heads,
        'head_dim': width // heads,
        'mlp': len(arrays['transformer.layers.0.mlp.fc1.weight']),
        'gelu': 'erf',
        'block_order': 'cross_mlp_self',
        'gate_bias': False,
        'state_norm': 'affine',
        'output_norm': True,
    }


CORES = {'mamba': Mamba, 'mambamix': MambaMix, 'gmmix': GMMix, 'rvmrnn': RVMRNN}
SIZES = {'mamba': _mamba_sizes, 'mambamix': _mix_sizes, 'gmmix': _mix_sizes, 'rvmrnn': _rvmrnn_sizes}

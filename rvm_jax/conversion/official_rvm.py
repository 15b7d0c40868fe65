"""The released RVM layout (google-deepmind/representations4d): an `.npz` of float32 arrays and no configuration."""

import dataclasses
import os
from typing import IO

import numpy as np

from rvm_jax.conversion import mapping
from rvm_jax.conversion.npz import read_npz
from rvm_jax.errors import UserError
from rvm_jax.models import build, param_names
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.rvm import RVM

KERNEL = 'tokenizer/patch_embedding/Conv_0/kernel'  # released as a 3-D convolution with a leading axis of one

TABLE = (
    ('cls_token', 'encoder/cls_token'),
    ('tokenizer/patch_embedding/Conv_0/*', 'encoder/patch_embed/*'),
    ('encoder/layers_#/*', 'encoder/layers/#/*'),
    ('encoder/LayerNorm_0/*', 'encoder/norm/*'),
    ('rnn_core/state_layer_norm/*', 'core/state_norm/*'),
    ('rnn_core/transformer/xa_blocks_#/ca_attention_norm/*', 'core/layers/#/cross_attention_norm/*'),
    ('rnn_core/transformer/xa_blocks_#/ca_attention/*', 'core/layers/#/cross_attention/*'),
    ('rnn_core/transformer/xa_blocks_#/*', 'core/layers/#/*'),
    ('rnn_core/transformer/output_norm/*', 'core/norm/*'),
    ('rnn_core/*', 'core/*'),
    ('mask_token', 'decoder/mask_token'),
    ('decoder_embedder/*', 'decoder/embedder/*'),
    ('delta_embedder/*', 'decoder/delta_embedder/*'),
    ('decoder/xa_blocks_#/ca_attention_norm/*', 'decoder/layers/#/cross_attention_norm/*'),
    ('decoder/xa_blocks_#/ca_attention/*', 'decoder/layers/#/cross_attention/*'),
    ('decoder/xa_blocks_#/*', 'decoder/layers/#/*'),
    ('decoder/output_norm/*', 'decoder/norm/*'),
    ('detokenizer/Dense_0/*', 'decoder/detokenizer/*'),
)


def read_official(path: str | os.PathLike) -> tuple[Architecture, dict[str, np.ndarray]]:
    """(architecture, named arrays) of a released file, with or without the decoder keys.

    Raises UserError for a file that is not one, listing the keys that are missing, unexpected or of another shape.
    """
    arrays = read_npz(path)
    if KERNEL not in arrays or arrays[KERNEL].ndim != 5 or arrays[KERNEL].shape[0] != 1:
        found = ', '.join(sorted(arrays)[:4]) or 'no arrays'
        raise UserError(path, f'not a released RVM file: no {KERNEL}; it has {found} ...', 'give an RVM .npz')
    try:
        arch = infer_architecture(arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(path, f'sizes cannot be read: {error} is missing or misshapen', 'check the file') from error
    param_names.compare(released_shapes(arch), {key: array.shape for key, array in arrays.items()}, path)
    named, _ = mapping.translate(arrays, TABLE)
    kernel = arrays[KERNEL]
    named['encoder/patch_embed/kernel'] = kernel.reshape(-1, kernel.shape[-1])
    return arch, named


def to_official(model: RVM) -> dict[str, np.ndarray]:
    """{released key: array} of a model, the inverse of `read_official`. UserError if it does not fit there."""
    arch, released = model.architecture, Architecture()
    if (arch.encoder, arch.core, arch.target, arch.output_norm) != ('vit', 'rvmrnn', 'shared', False):
        raise UserError(
            f'a model of {arch.encoder} and {arch.core}', 'the released layout holds an RVM trained as a whole',
            'use save_pretrained (rvm export without --format official)',
        )  # fmt: skip
    for switch in ('block_order', 'gelu', 'position_resize'):
        value = getattr(arch, switch)
        if value != getattr(released, switch):
            raise UserError(f'{switch}={value}', 'cannot be told from a released file', 'use save_pretrained')
    arrays, unknown = mapping.translate(param_names.to_named(model), mapping.invert(TABLE))
    if unknown:
        raise UserError('model', f'{", ".join(unknown[:4])} do not exist in the released layout', 'use save_pretrained')
    kernel = arrays[KERNEL]
    arrays[KERNEL] = kernel.reshape(1, model.patch_size, model.patch_size, 3, kernel.shape[-1])
    return arrays


def released_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """{released key: shape} of a model of this architecture."""
    shapes, _ = mapping.translate(param_names.named_shapes(build.abstract(arch)), mapping.invert(TABLE))
    return shapes | {KERNEL: (1, arch.patch_size, arch.patch_size, 3, arch.width)}


def write_npz(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """Write {key: array} uncompressed to an open binary file."""
    np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes them for its option


def infer_architecture(arrays: dict[str, np.ndarray]) -> Architecture:
    """Sizes and switches of a released file from its shapes; what shapes cannot tell is as released."""
    core = 'rnn_core/transformer/xa_blocks_0'
    sizes = {
        'patch_size': arrays[KERNEL].shape[1],
        'width': arrays[KERNEL].shape[-1],
        'gate_bias': 'rnn_core/input_update/bias' in arrays,
        'state_norm': 'rnn_core/state_layer_norm/scale' in arrays,
        'delta_embedding': 'delta_embedder/kernel' in arrays or 'mask_token' not in arrays,
        'decoder_width': arrays['mask_token'].shape[-1] if 'mask_token' in arrays else 0,
    }
    sizes |= _stack_sizes(arrays, 'encoder', 'encoder/layers_', 'encoder/layers_0/attention')
    sizes |= _stack_sizes(arrays, 'core', 'rnn_core/transformer/xa_blocks_', f'{core}/attention')
    if sizes['decoder_width']:
        sizes |= _stack_sizes(arrays, 'decoder', 'decoder/xa_blocks_', 'decoder/xa_blocks_0/attention')
    return dataclasses.replace(Architecture(), **sizes)


def _stack_sizes(arrays, part, prefix, attention):
    _, heads, head_dim = arrays[f'{attention}/query/kernel'].shape
    return {
        f'{part}_layers': len({key[len(prefix) :].split('/')[0] for key in arrays if key.startswith(prefix)}),
        f'{part}_heads': heads,
        f'{part}_head_dim': head_dim,
        f'{part}_mlp': arrays[f'{prefix}0/mlp/dense_in/kernel'].shape[-1],
    }

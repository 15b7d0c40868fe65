"""cuDNN's fused attention for every number of queries and keys, forward and backward (NVIDIA GPUs, bfloat16).

`jax.nn.dot_product_attention` cannot be differentiated where a length is odd, as RVM's are (1 + 256 tokens of a frame,
13 visible ones). cuDNN refuses odd lengths only together with a bias, but JAX (0.10 to 0.12) replaces a missing bias by
an empty array and then checks as if there were one. `direct` calls JAX's two primitives, forward and backward, without
that check; their names are private. `padded` uses the public function alone, with lengths padded to a multiple of 8. It
moves more memory. It is for versions of JAX with other primitives, and for devices where `direct` gives wrong numbers.
"""

import functools
import inspect
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

KEPT = 'attention'  # name of what a fused kernel gives or its backward pass needs, for remat to keep: see layers.Stack
LENGTHS = 8  # padded lengths are multiples of this
FORWARD, BACKWARD = '_dot_product_attention_fwd_p_wrapper', '_dot_product_attention_bwd_p_wrapper'


def cudnn_attention(query_BQHd: jax.Array, key_BKHd: jax.Array, value_BKHd: jax.Array) -> jax.Array:
    """Softmax(query . key / sqrt(d)) . value, (B, Q, H, d): `direct` where this JAX allows it, else `padded`."""
    return (direct if _stablehlo() else padded)(query_BQHd, key_BKHd, value_BKHd)


@jax.custom_vjp
def direct(query_BQHd: jax.Array, key_BKHd: jax.Array, value_BKHd: jax.Array) -> jax.Array:
    """The same, of arrays as they are."""
    return jax.nn.dot_product_attention(query_BQHd, key_BKHd, value_BKHd, implementation='cudnn')


def _direct_forward(query_BQHd, key_BKHd, value_BKHd):
    qkv = query_BQHd, key_BKHd, value_BKHd
    options = _options(query_BQHd) | {'is_training': True}
    outputs = getattr(_stablehlo(), FORWARD).bind(*qkv, *_unused(query_BQHd), **options)
    out_BQHd, log_total_BHQ = checkpoint_name(tuple(outputs), KEPT)
    return out_BQHd, (*qkv, out_BQHd, log_total_BHQ)


def _direct_backward(saved, grad_BQHd):
    *qkv, out_BQHd, log_total_BHQ = saved
    arrays = *qkv, *_unused(qkv[0]), log_total_BHQ, out_BQHd, grad_BQHd
    return tuple(getattr(_stablehlo(), BACKWARD).bind(*arrays, **_options(qkv[0])))[:3]


direct.defvjp(_direct_forward, _direct_backward)


@functools.cache
def _stablehlo():
    """JAX's module with the primitives, None where a version has no such module or primitives."""
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module
    except ImportError:
        return None
    has_all = all(hasattr(module, name) for name in (FORWARD, BACKWARD, 'MaskType', 'AttentionLayout'))
    return module if has_all else None


def _options(query_BQHd):
    module = _stablehlo()
    options = {
        'scale': 1 / math.sqrt(query_BQHd.shape[-1]),
        'seed': 0,
        'dropout_rate': 0.0,
        'variadic_args': (False, False),  # no bias, no gradient of one
        'mask_type': module.MaskType.NO_MASK,
        'layout': module.AttentionLayout.BTNH.value,
        'sliding_window_length': None,
    }
    known = inspect.signature(module._dot_product_attention_fwd_impl).parameters
    return options | ({'score_mod': None} if 'score_mod' in known else {})  # newer than JAX 0.10


def _unused(query_BQHd):
    """Bias, lengths, offsets and page tables: empty where there are none."""
    return [jnp.zeros(0, query_BQHd.dtype)] * 7


def padded(
    query_BQHd: jax.Array, key_BKHd: jax.Array, value_BKHd: jax.Array, implementation: Literal['xla', 'cudnn'] = 'cudnn'
) -> jax.Array:
    """The same for arrays padded to multiples of 8 queries and keys; implementation: of `jax.nn`, for tests."""
    num_queries = query_BQHd.shape[1]
    lengths = [jnp.full(len(x), x.shape[1], jnp.int32) for x in (query_BQHd, key_BKHd)]
    out_BQHd = jax.nn.dot_product_attention(
        _pad(query_BQHd),
        _pad(key_BKHd),
        _pad(value_BKHd),
        query_seq_lengths=lengths[0],
        key_value_seq_lengths=lengths[1],
        implementation=implementation,
    )
    return out_BQHd[:, :num_queries]


def _pad(x_BNHd):
    return jnp.pad(x_BNHd, ((0, 0), (0, -x_BNHd.shape[1] % LENGTHS), (0, 0), (0, 0)))


def is_cudnn_output(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: keep the output of JAX's own forward primitive, which `padded` cannot name."""
    return primitive.name.startswith('dot_product_attention_fwd')

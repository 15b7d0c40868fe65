"""The one attention function: scaled dot products, softmax in float32, no mask; fused where the device allows.

Scores (heads x queries x keys) are the largest arrays of the model. 'xla' writes them to memory, as any array
program would. 'by_head' takes one head of one clip at a time, so that its scores stay in the cache of a CPU, and
computes them again going back. 'cudnn' is NVIDIA's fused kernel, 'cudnn_padded' the same at padded lengths (see
cudnn_attention.py), and 'pallas' ours for TPUs, for bfloat16 alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from rvm_jax.errors import UserError
from rvm_jax.models.cudnn_attention import KEPT, cudnn_attention, padded
from rvm_jax.models.pallas_attention import pallas_attention

if TYPE_CHECKING:
    from rvm_jax.models.layers import Execution

LARGE_SCORES = 2**14  # scores of one head above which 'by_head' is faster on a CPU
SCORES_AT_ONCE = 2**18  # as many heads go together as have this many scores: they fit the cache, the loop stays short
LONG_KEYS = 128  # keys from which 'pallas' is worth while: its tiles hold as many
# Kernels for 'auto' on a platform, the best first: one is taken where those before it were found wrong.
FUSED = {'gpu': ('cudnn', 'cudnn_padded'), 'tpu': ('pallas',)}


def attention(query_BQHd: jax.Array, key_BKHd: jax.Array, value_BKHd: jax.Array, execution: Execution) -> jax.Array:
    """Softmax(query . key / sqrt(d)) . value, (B, Q, H, d).

    execution.implementation: 'xla', 'by_head', 'cudnn', 'cudnn_padded', 'pallas', or 'auto' for the best that device
    and dtypes allow. The released precision always takes 'xla': the others round elsewhere.
    """
    implementation, platform = execution.implementation, execution.platform or jax.default_backend()
    if execution.precision.half_logits:
        implementation = 'xla'
    elif implementation == 'auto':
        implementation = best(query_BQHd, key_BKHd, value_BKHd, platform)
    if implementation in ('cudnn', 'cudnn_padded'):
        fused = cudnn_attention if implementation == 'cudnn' else padded
        return fused(query_BQHd, key_BKHd, value_BKHd)
    query_BQHd = query_BQHd / math.sqrt(query_BQHd.shape[-1])
    if implementation == 'pallas':
        return _pallas(query_BQHd, key_BKHd, value_BKHd, interpret=platform != 'tpu')
    if implementation == 'by_head':
        return _by_head(query_BQHd, key_BKHd, value_BKHd, execution.unroll is True)
    return _xla(query_BQHd, key_BKHd, value_BKHd, execution.precision)


def check_device(execution: Execution) -> None:
    """Raise UserError if a fused kernel is asked for where it does not run."""
    nvidia = ('gpu', 'NVIDIA GPUs')
    homes = {'cudnn': nvidia, 'cudnn_padded': nvidia, 'pallas': ('tpu', 'TPUs from v5 on')}
    if execution.implementation not in homes:
        return
    platform, devices = homes[execution.implementation]
    precision = execution.precision
    is_half = precision.block == jnp.bfloat16 and not precision.half_logits
    if not is_half or platform != (execution.platform or jax.default_backend()):
        raise UserError(
            f'config.model.attention={execution.implementation}', f'runs on {devices} in bf16 alone',
            'take auto, or model.precision=bf16',
        )  # fmt: skip


def best(
    query_BQHd: jax.Array | jax.ShapeDtypeStruct,
    key_BKHd: jax.Array | jax.ShapeDtypeStruct,
    value_BKHd: jax.Array | jax.ShapeDtypeStruct,
    platform: str,
) -> str:
    """What 'auto' takes on a platform for arrays, or shapes, like these."""
    half = all(x.dtype == jnp.bfloat16 for x in (query_BQHd, key_BKHd, value_BKHd))
    fused = FUSED[platform][0] if half and platform in FUSED else None
    if fused == 'cudnn' and query_BQHd.shape[-1] % 8 == 0:
        return 'cudnn'
    if fused == 'pallas' and key_BKHd.shape[1] >= LONG_KEYS:
        return 'pallas'
    large = query_BQHd.shape[1] * key_BKHd.shape[1] > LARGE_SCORES
    return 'by_head' if platform == 'cpu' and large else 'xla'


def _xla(query_BQHd, key_BKHd, value_BKHd, precision):
    logits_dtype = None if precision.half_logits else jnp.float32
    logits_BHQK = jnp.einsum('bqhd,bkhd->bhqk', query_BQHd, key_BKHd, preferred_element_type=logits_dtype)
    weights_BHQK = jax.nn.softmax(logits_BHQK.astype(jnp.float32), axis=-1)
    if precision.weights == 'input':
        weights_BHQK = weights_BHQK.astype(value_BKHd.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights_BHQK, value_BKHd)


def _pallas(query_BQHd, key_BKHd, value_BKHd, interpret):
    flat = [rearrange(x, 'b n h d -> b n (h d)') for x in (query_BQHd, key_BKHd, value_BKHd)]
    out_BQC = checkpoint_name(pallas_attention(*flat, query_BQHd.shape[-1], interpret), KEPT)
    return out_BQC.reshape(query_BQHd.shape)


def _by_head(query_BQHd, key_BKHd, value_BKHd, unroll):
    heads = [rearrange(x, 'b n h d -> (b h) n d') for x in (query_BQHd, key_BKHd, value_BKHd)]
    if unroll:
        out = jax.vmap(_one_head)(*heads)
    else:
        # Even one at a time is a batch: remat 'dots' stores products without a batch axis, so not the scores.
        at_once = max(1, SCORES_AT_ONCE // (query_BQHd.shape[1] * key_BKHd.shape[1]))
        out = jax.lax.map(lambda qkv: _one_head(*qkv), heads, batch_size=at_once)
    return rearrange(out, '(b h) n d -> b n h d', b=query_BQHd.shape[0])


@jax.custom_vjp
def _one_head(query_Qd, key_Kd, value_Kd):
    return _one_head_forward(query_Qd, key_Kd, value_Kd)[0]


def _one_head_forward(query_Qd, key_Kd, value_Kd):
    logits_QK = jnp.dot(query_Qd, key_Kd.T, preferred_element_type=jnp.float32)
    top_Q1 = logits_QK.max(-1, keepdims=True)
    weights_QK = jnp.exp(logits_QK - top_Q1)
    total_Q1 = weights_QK.sum(-1, keepdims=True)
    out_Qd = (jnp.dot(weights_QK.astype(value_Kd.dtype), value_Kd) / total_Q1).astype(query_Qd.dtype)
    out_Qd, log_total_Q1 = checkpoint_name((out_Qd, top_Q1 + jnp.log(total_Q1)), KEPT)
    return out_Qd, (query_Qd, key_Kd, value_Kd, out_Qd, log_total_Q1)


def _one_head_backward(saved, grad_Qd):
    query_Qd, key_Kd, value_Kd, out_Qd, log_total_Q1 = saved
    logits_QK = jnp.dot(query_Qd, key_Kd.T, preferred_element_type=jnp.float32)
    weights_QK = jnp.exp(logits_QK - log_total_Q1)
    grad_weights_QK = jnp.dot(grad_Qd, value_Kd.T, preferred_element_type=jnp.float32)
    grad_logits_QK = weights_QK * (grad_weights_QK - (grad_Qd * out_Qd).sum(-1, keepdims=True))
    weights_QK, grad_logits_QK = weights_QK.astype(grad_Qd.dtype), grad_logits_QK.astype(grad_Qd.dtype)
    return grad_logits_QK @ key_Kd, grad_logits_QK.T @ query_Qd, weights_QK.T @ grad_Qd


_one_head.defvjp(_one_head_forward, _one_head_backward)

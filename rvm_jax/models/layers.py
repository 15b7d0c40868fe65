"""The pieces every transformer here is made of: dense, attention, MLP, pre-norm blocks, and a scanned stack of them.

Precision follows the data, as in the released code: a `Dense` computes in the dtype of its input, so the output
of the norms decides what a block computes in. `Precision` names those outputs (RVM, supplement on precision, and the
dtypes of the released model).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from rvm_jax.models import cudnn_attention, derivatives
from rvm_jax.models.attention import attention
from rvm_jax.models.derivatives import add_bias, added, gelu_dense, kept, scale_and_shift, written

lecun_normal = nnx.initializers.lecun_normal()
xavier_uniform = nnx.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class Precision:
    """Dtypes of a forward pass; parameters, norm statistics, softmax, loss and the carried state are always float32."""

    tokens: jnp.dtype  # residual stream, encoder output, gates
    block: jnp.dtype  # output of the norms inside blocks, and so of matrix products
    half_logits: bool  # logits stay in the dtype of query and key, as released; else they are accumulated in float32
    weights: str  # softmax output: 'float32' (released colab) or 'input' (Kauldron)


FLOAT32_KERNELS = {'dt_proj', 'conv'}  # of Mamba, in every precision

PRECISIONS = {
    'float32': Precision(jnp.float32, jnp.float32, False, 'float32'),
    'official_mixed': Precision(jnp.float32, jnp.bfloat16, True, 'float32'),
    'bf16': Precision(jnp.bfloat16, jnp.bfloat16, False, 'input'),
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed, which never changes what it computes beyond rounding.

    implementation: of attention, see attention.py, for the devices of `platform` ('cpu', 'gpu', 'tpu', 'old tpu' for
    those before v5; '': JAX's default). remat: 'none', 'dots' or 'full', see `Stack`. unroll: True inlines every loop,
    of which the compiler's cost analysis would count the body only once; 'layers' those over layers and over frames
    alone, as GPUs want it: a loop copies what it keeps into its stacks, and there that is a fifth of all traffic.
    gather: makes the parameters of one layer whole where a device holds but a part of each, see training/sharding.py.
    """

    precision: Precision = PRECISIONS['float32']
    implementation: str = 'auto'
    remat: str = 'none'
    unroll: bool | str = False
    platform: str = ''
    gather: Callable | None = None


def compiled(method: Callable) -> Callable:
    """Run a method under `jax.jit`, compiled once per structure and shape, so a notebook pays for it only once."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef, params, args):
        return method(nnx.merge(graphdef, params), *args)

    @functools.wraps(method)
    def call(self, *args):
        return run(*nnx.split(self), args)

    return call


class Dense(nnx.Module):
    """Linear map from the trailing axes `in_shape` to `out_shape`, in the dtype of its input."""

    def __init__(self, in_shape, out_shape, *, use_bias=True, kernel_init=lecun_normal, rngs):
        self.in_shape, self.out_shape = _as_tuple(in_shape), _as_tuple(out_shape)
        flat = kernel_init(rngs.params(), (math.prod(self.in_shape), math.prod(self.out_shape)), jnp.float32)
        self.kernel = nnx.Param(flat.reshape(*self.in_shape, *self.out_shape))
        self.bias: Any = nnx.Param(jnp.zeros(self.out_shape)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., *in_shape) -> (..., *out_shape)."""
        leading = x.shape[: x.ndim - len(self.in_shape)]
        inputs, outputs = math.prod(self.in_shape), math.prod(self.out_shape)
        y = x.reshape(*leading, inputs) @ self.kernel[...].astype(x.dtype).reshape(inputs, outputs)
        y = y if self.bias is None else add_bias(y, self.bias[...].astype(x.dtype).reshape(-1))
        return y.reshape(*leading, *self.out_shape)  # last, so that a kernel may take the heads side by side


class Attention(nnx.Module):
    """Multi-head attention of x_BQD to kv_BKD (to itself if kv is x), with biases and an output projection."""

    def __init__(self, width, heads, head_dim, *, execution, rngs):
        self.execution = execution
        self.query = Dense(width, (heads, head_dim), rngs=rngs)
        self.key = Dense(width, (heads, head_dim), rngs=rngs)
        self.value = Dense(width, (heads, head_dim), rngs=rngs)
        self.out = Dense((heads, head_dim), width, rngs=rngs)

    def __call__(self, x_BQD: jax.Array, kv_BKD: jax.Array) -> jax.Array:
        """Returns (B, Q, D)."""
        query, key, value = kept(self.query(x_BQD)), kept(self.key(kv_BKD)), kept(self.value(kv_BKD))
        return self.out(attention(query, key, value, self.execution))


class MLP(nnx.Module):
    """Two dense layers with a GELU between them; gelu is 'tanh' (approximation, as released) or 'erf' (exact)."""

    def __init__(self, width, hidden, *, gelu, rngs):
        self.approximate = gelu == 'tanh'
        self.dense_in = Dense(width, hidden, kernel_init=xavier_uniform, rngs=rngs)
        self.dense_out = Dense(hidden, width, kernel_init=xavier_uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., D) -> (..., D)."""
        out = self.dense_out
        kernel, bias = (leaf[...].astype(x.dtype) for leaf in (out.kernel, out.bias))
        return gelu_dense(self.dense_in(x), kernel, bias, self.approximate)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the last axis, computed in float32, output in dtype; as in Flax Linen and the release, which
    round the result alone, and NNX its input too. Remat 'dots' keeps mean and deviation.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # Flax's takes a mask, too
        """x (..., D) -> (..., D)."""
        wide = x.astype(jnp.float32)
        mean, square = wide.mean(-1, keepdims=True), jnp.square(wide).mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.maximum(0.0, square - jnp.square(mean)) + self.epsilon)
        mean, factor = kept((mean, factor))
        bias = None if self.bias is None else self.bias[...]
        scale: Any = self.scale
        return scale_and_shift(wide - mean, factor, scale[...], bias).astype(self.dtype)


def layer_norm(width: int, dtype: Any, *, epsilon: float = 1e-6, use_bias: bool = True, rngs: nnx.Rngs) -> LayerNorm:
    """A LayerNorm with its output in dtype."""
    return LayerNorm(width, epsilon=epsilon, use_bias=use_bias, dtype=dtype, rngs=rngs)


class Block(nnx.Module):
    """Pre-norm transformer block: self-attention, then MLP (ViT)."""

    def __init__(self, width, heads, head_dim, mlp, *, gelu, execution, rngs):
        dtype = execution.precision.block
        self.attention_norm = layer_norm(width, dtype, rngs=rngs)
        self.attention = Attention(width, heads, head_dim, execution=execution, rngs=rngs)
        self.mlp_norm = layer_norm(width, dtype, rngs=rngs)
        self.mlp = MLP(width, mlp, gelu=gelu, rngs=rngs)

    def __call__(self, x_BMD: jax.Array) -> jax.Array:
        """Returns (B, M, D)."""
        y_BMD = self.attention_norm(x_BMD)
        x_BMD = kept(added(x_BMD, self.attention(y_BMD, y_BMD)))
        return added(x_BMD, self.mlp(self.mlp_norm(x_BMD)))


class CrossBlock(nnx.Module):
    """Pre-norm block of core and decoder: cross-attention, MLP, self-attention (RVM, Table 6 and released code).

    Only the query side of the cross-attention is normalized; keys and values come as they are. x has a group axis:
    G sequences that attend to themselves one by one, but share one set of source keys and values, which are
    projected once. order 'self_mlp_cross' is the paper's Listing 2.
    """

    def __init__(self, width, heads, head_dim, mlp, *, gelu, order, execution, rngs):
        dtype = execution.precision.block
        self.order = order
        self.cross_attention_norm = layer_norm(width, dtype, rngs=rngs)
        self.cross_attention = Attention(width, heads, head_dim, execution=execution, rngs=rngs)
        self.mlp_norm = layer_norm(width, dtype, rngs=rngs)
        self.mlp = MLP(width, mlp, gelu=gelu, rngs=rngs)
        self.attention_norm = layer_norm(width, dtype, rngs=rngs)
        self.attention = Attention(width, heads, head_dim, execution=execution, rngs=rngs)

    def __call__(self, x_BGQD: jax.Array, kv_BKD: jax.Array) -> jax.Array:
        """Returns (B, G, Q, D)."""
        groups = x_BGQD.shape[1]
        x_LQD = rearrange(x_BGQD, 'b g q d -> (b g) q d')  # an axis of size 1 makes XLA turn arrays round on GPUs
        *parts, last = [getattr(self, f'_{part}') for part in self.order.split('_')]
        for part in parts:
            x_LQD = kept(added(x_LQD, part(x_LQD, kv_BKD)))
        return rearrange(added(x_LQD, last(x_LQD, kv_BKD)), '(b g) q d -> b g q d', g=groups)

    def _cross(self, x_LQD, kv_BKD):
        y_BQD = rearrange(self.cross_attention_norm(x_LQD), '(b g) q d -> b (g q) d', b=len(kv_BKD))
        return rearrange(self.cross_attention(y_BQD, kv_BKD), 'b (g q) d -> (b g) q d', q=x_LQD.shape[1])

    def _mlp(self, x_LQD, kv_BKD):
        return self.mlp(self.mlp_norm(x_LQD))

    def _self(self, x_LQD, kv_BKD):
        y_LQD = self.attention_norm(x_LQD)
        return self.attention(y_LQD, y_LQD)


class Stack(nnx.Module):
    """Blocks of one shape, parameters stacked on a leading axis and scanned, so compile time ignores depth.

    For the backward pass, remat 'none' keeps all activations and 'full' keeps none of a block. With 'dots' products
    with parameters and fused attention do not run again. On GPUs that keeps what has passed `kept`: products after
    their bias, the residual stream, statistics of norms. Elsewhere it keeps the products themselves: on a TPU the other
    way moves a tenth more memory. Gathered parameters are never kept.
    """

    def __init__(self, make_block, depth, *, execution, rngs):
        self.execution = execution
        self.blocks = nnx.vmap(make_block)(rngs.split(depth))

    def __call__(self, x: jax.Array, *context: Any) -> jax.Array:
        """Apply every block in turn to x; context goes to each of them."""
        return self.fold(lambda block, x, _: (block(x, *context), None), x)[0]

    def tapped(self, x: jax.Array, taps: Sequence[int], *context: Any) -> jax.Array:
        """The outputs of the blocks that taps names, ascending from 0: (len(taps), *x.shape). No other is stored."""
        if self.execution.unroll:
            return self._tapped_inline(x, taps, *context)
        depth = taps[-1] + 1
        slots = jnp.asarray(np.searchsorted(taps, np.arange(depth)))  # a block writes where the next tap will, too

        def apply(block, carry, slot):
            x, tapped = carry
            x = block(x, *context)
            return (x, jax.lax.dynamic_update_index_in_dim(tapped, x, slot, 0)), None

        tapped = jnp.zeros((len(taps), *x.shape), x.dtype)
        return self.fold(apply, (x, tapped), slots, slice(depth))[0][1]

    def _tapped_inline(self, x, taps, *context):
        outputs = []
        for first, last in zip((-1, *taps), taps, strict=False):
            x, _ = self.fold(lambda block, x, _: (block(x, *context), None), x, blocks=slice(first + 1, last + 1))
            outputs.append(x)
        return jnp.stack(outputs)

    def fold(
        self,
        apply: Callable[[Any, Any, Any], tuple[Any, Any]],
        carry: Any,
        per_block: Any = None,
        blocks: slice = slice(None),
    ) -> tuple[Any, Any]:
        """apply(block, carry, item) -> (carry, out) over a slice of the blocks, with an item for each.

        per_block holds the items, with a leading axis of blocks. Returns the last carry and the outs, stacked.
        """
        graphdef, stacked = nnx.split(self.blocks)
        remat, unroll, gather = self.execution.remat, bool(self.execution.unroll), self.execution.gather
        stacked = jax.tree.map(lambda leaf: leaf[blocks], stacked)
        if self.execution.platform == 'gpu' and gather is None:  # else what travels is rounded
            stacked = _rounded(stacked, self.execution.precision)

        def body(carry, params_and_item):
            params, item = params_and_item
            params = gather(nnx.to_pure_dict(params)) if gather else params
            carry, out = apply(nnx.merge(graphdef, params), carry, item)
            return (jax.tree.map(written, carry) if self.execution.unroll == 'layers' else carry), out

        if remat != 'none' or gather:
            # Inside a loop nothing can be merged with the forward pass anyway; unrolled, it must be prevented.
            body = jax.checkpoint(body, policy=policy(self.execution), prevent_cse=unroll)
        return jax.lax.scan(body, carry, (stacked, per_block), unroll=unroll)


def _rounded(stacked, precision):
    """Kernels in bfloat16 where all products are: once for all blocks and uses, not in each of them there and back."""
    if not precision.tokens == precision.block == jnp.bfloat16:
        return stacked

    def leaf(path, x):
        names = [str(getattr(key, 'key', getattr(key, 'name', ''))) for key in path]
        is_rounded = 'kernel' in names and not FLOAT32_KERNELS.intersection(names)
        return x.astype(jnp.bfloat16) if is_rounded else x

    return jax.tree_util.tree_map_with_path(leaf, stacked)


def _all_but_weights(primitive, *_, **__):
    """Whole weights, and copies of them in another dtype or shape, are not kept: they are gathered again."""
    return primitive.name not in ('all_gather', 'convert_element_type', 'reshape')


def policy(execution: Execution) -> Callable:
    """What `jax.checkpoint` saves under an execution's remat, see `Stack`."""
    policies = jax.checkpoint_policies
    if execution.remat != 'dots':
        return {'none': _all_but_weights, 'full': policies.nothing_saveable}[execution.remat]
    if execution.platform == 'gpu':
        named = policies.save_only_these_names(derivatives.KEPT, cudnn_attention.KEPT)
        return policies.save_from_both_policies(named, cudnn_attention.is_cudnn_output)
    fused = policies.save_only_these_names(cudnn_attention.KEPT)
    return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, fused)


def _as_tuple(shape):
    return shape if isinstance(shape, tuple) else (shape,)

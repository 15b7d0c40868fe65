"""Parts of a layer with a derivative of their own: the same values, and fewer passes over memory going back.

What differentiation keeps, and which of XLA's programs a sum becomes part of, decide what a GPU moves: see
docs/scaling.md. None of it changes a value beyond rounding.
"""

import functools
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

KEPT = 'kept'  # name of what has passed `kept`
Arrays = TypeVar('Arrays')  # one array, or a tree of them


def kept(x: Arrays) -> Arrays:
    """x, or a tree of arrays, which remat 'dots' keeps for the backward pass on GPUs: see `layers.Stack`."""
    return checkpoint_name(x, KEPT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """`jax.nn.gelu`, which keeps x alone for the way back and computes its derivative in float32, in one pass."""
    return jax.nn.gelu(x, approximate=approximate)


def _gelu_forward(x, approximate):
    return gelu(x, approximate), x


def _gelu_backward(approximate, x, grad):
    wide = x.astype(jnp.float32)
    if approximate:
        square = wide * wide
        half = math.sqrt(2 / math.pi)
        bend = jnp.tanh(half * (wide + 0.044715 * square * wide))
        slope = 0.5 * (1 + bend) + 0.5 * half * wide * (1 - bend * bend) * (1 + 3 * 0.044715 * square)
    else:
        below = 0.5 * jax.lax.erfc(-wide * math.sqrt(0.5))
        slope = below + wide * jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((grad.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gelu_dense(hidden: jax.Array, kernel: jax.Array, bias: jax.Array, approximate: bool) -> jax.Array:
    """gelu(hidden) @ kernel + bias, which keeps hidden alone for the way back.

    One rule for both. If hidden were named between its product and the GELU, XLA would not join the two; so it is named
    here, for the backward pass alone. cuBLAS then computes product, bias and GELU (tanh) in one call.
    """
    return jax.nn.gelu(hidden, approximate=approximate) @ kernel + bias


def _gelu_dense_forward(hidden, kernel, bias, approximate):
    return gelu_dense(hidden, kernel, bias, approximate), (kept(hidden), kernel)


def _gelu_dense_backward(approximate, saved, grad):
    hidden, kernel = saved
    activated = jax.nn.gelu(hidden, approximate=approximate)
    grad_kernel = jnp.einsum('...f,...d->fd', activated, grad)
    (grad_hidden,) = _gelu_backward(approximate, hidden, grad @ kernel.T)
    return grad_hidden, grad_kernel, _sum_rows(grad).astype(grad.dtype)


gelu_dense.defvjp(_gelu_dense_forward, _gelu_dense_backward)


def added(x: jax.Array, change: jax.Array) -> jax.Array:
    """x + change in the dtype of x, by way of float32, which rounds the same.

    A plain sum becomes part of the product before it in cuBLAS, for which x is copied first; like this it is one with
    the statistics of the norm that follows.
    """
    return (x.astype(jnp.float32) + change.astype(jnp.float32)).astype(jnp.promote_types(x.dtype, change.dtype))


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y (..., D) + bias (D)."""
    return y + bias


add_bias.defvjp(lambda y, bias: (y + bias, None), lambda _, grad: (grad, _sum_rows(grad).astype(grad.dtype)))


def _sum_rows(x):
    """Sum over all axes but the last; on NVIDIA GPUs in two steps, tokens and then sequences, the latter in float32.

    In one step XLA splits the rows of a GPU's sum in its own way, and reads them once more to do so. In two the first
    is part of the program that makes x.
    """

    def at_once(x):
        return jax.lax.reduce(x, jnp.zeros((), x.dtype), jax.lax.add, range(x.ndim - 1)).astype(jnp.float32)

    def in_two_steps(x):
        if x.ndim > 2:
            x = written(jax.lax.reduce(x, jnp.zeros((), x.dtype), jax.lax.add, (x.ndim - 2,)))
        return x.astype(jnp.float32).sum(range(x.ndim - 1))

    return jax.lax.platform_dependent(x, cuda=in_two_steps, default=at_once)


def written(x: jax.Array) -> jax.Array:
    """x, which XLA then does not make again in each of its consumers, nor merge with the operation that follows."""
    info = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)  # changes no value


@jax.custom_vjp
def scale_and_shift(centered: jax.Array, factor: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
    """centered (..., D) * factor (..., 1) * scale (D) + bias (D), or without a bias: a norm's last step."""
    y = centered * (factor * scale)
    return y if bias is None else y + bias


def _scaled_forward(centered, factor, scale, bias):
    return scale_and_shift(centered, factor, scale, bias), (centered, factor, scale, bias is None)


def _scaled_backward(saved, grad):
    centered, factor, scale, no_bias = saved
    grad_factor = (grad * centered * scale).sum(-1, keepdims=True)
    grad_scale = _sum_rows(grad * centered * factor)
    return grad * (factor * scale), grad_factor, grad_scale, None if no_bias else _sum_rows(grad)


scale_and_shift.defvjp(_scaled_forward, _scaled_backward)

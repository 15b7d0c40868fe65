"""The Mamba-1 recurrence, what the Mamba cores share (arXiv 2312.00752; released PyTorch cores of arXiv 2605.19137).

Letters here: C channels inside (expand x width), N numbers each channel carries, K taps of the convolution over time.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from rvm_jax.models import derivatives, layers
from rvm_jax.models.layers import Execution

AT_ONCE = 512  # tokens in a group, see `selective_scan`: as in the released code
AT_ONCE_CPU = 32  # their S fits its cache: backward passes are twice as fast
SHORTEST, LONGEST = 1e-3, 1e-1  # steps that a channel starts from
torch_uniform = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # +-1/sqrt(inputs), PyTorch's default


class MambaState(NamedTuple):
    """What one Mamba layer carries, float32 in every precision; a core has it with an axis of layers in front."""

    recent_BKMC: jax.Array  # inputs of the convolution, of the last K-1 frames, oldest first
    memory_BMNC: jax.Array


class SelectiveScan(nnx.Module):
    """Mamba for every token by itself, u = normed tokens of a frame:

    a, z = W_in u;  c = SiLU(conv(a over this frame and the K-1 before));  d, b, r = W_x c;  s = softplus(W_dt d + bias)
    S' = exp(-exp(A_log) s) * S + b (s * c)^T
    output = W_out ((r S' + D * c) * SiLU(z))

    Products take the dtype of u, all else is float32.
    """

    def __init__(self, width, *, d_state, d_conv, expand, execution, rngs):
        inner, rank = expand * width, math.ceil(width / 16)
        self.execution, self.splits = execution, (rank, rank + d_state)
        self.in_proj = layers.Dense(width, 2 * inner, use_bias=False, kernel_init=torch_uniform, rngs=rngs)
        self.conv = CausalConv(d_conv, inner, rngs=rngs)
        self.x_proj = layers.Dense(inner, rank + 2 * d_state, use_bias=False, kernel_init=torch_uniform, rngs=rngs)
        self.dt_proj = layers.Dense(rank, inner, kernel_init=_uniform(rank**-0.5), rngs=rngs)
        self.dt_proj.bias = nnx.Param(_step_bias(rngs.params(), inner))
        self.A_log = nnx.Param(jnp.log(jnp.arange(1.0, d_state + 1))[:, None] * jnp.ones(inner))
        self.D = nnx.Param(jnp.ones(inner))
        self.out_proj = layers.Dense(inner, width, use_bias=False, kernel_init=torch_uniform, rngs=rngs)

    def __call__(self, u_BTMD: jax.Array, state: MambaState) -> tuple[jax.Array, MambaState]:
        """Returns (B, T, M, D) in the dtype of u and the next MambaState."""
        a_BTMC, z_BTMC = jnp.split(derivatives.kept(self.in_proj(u_BTMD)), 2, axis=-1)
        c_BTMC, recent_BKMC = self.conv(a_BTMC, state.recent_BKMC)
        projected = derivatives.kept(self.x_proj(c_BTMC.astype(u_BTMD.dtype))).astype(jnp.float32)
        low_rank, write_BTMN, read_BTMN = jnp.split(projected, self.splits, axis=-1)
        step_BTMC = jax.nn.softplus(derivatives.kept(self.dt_proj(low_rank)))
        y_BTMC, memory_BMNC = selective_scan(
            step_BTMC, c_BTMC, write_BTMN, read_BTMN, -jnp.exp(self.A_log[...]), state.memory_BMNC,
            self.execution,
        )  # fmt: skip
        y_BTMC = (y_BTMC + self.D[...] * c_BTMC) * jax.nn.silu(z_BTMC.astype(jnp.float32))
        return self.out_proj(y_BTMC.astype(u_BTMD.dtype)), MambaState(recent_BKMC, memory_BMNC)


class CausalConv(nnx.Module):
    """SiLU of a convolution over time, channel by channel; tap K-1 takes the current frame."""

    def __init__(self, taps, channels, *, rngs):
        self.kernel = nnx.Param(_uniform(taps**-0.5)(rngs.params(), (taps, channels)))
        self.bias = nnx.Param(_uniform(taps**-0.5)(rngs.params(), (channels,)))

    def __call__(self, a_BTMC: jax.Array, recent_BKMC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """recent: the K-1 frames before the first. Returns (B, T, M, C) float32 and the last K-1 frames."""
        frames = a_BTMC.shape[1]
        padded = jnp.concatenate([recent_BKMC, a_BTMC.astype(jnp.float32)], axis=1)
        taps = [weight_C * padded[:, k : k + frames] for k, weight_C in enumerate(self.kernel[...])]
        return jax.nn.silu(sum(taps) + self.bias[...]), padded[:, frames:]


def selective_scan(
    step_BTMC: jax.Array,
    c_BTMC: jax.Array,
    write_BTMN: jax.Array,
    read_BTMN: jax.Array,
    decay_NC: jax.Array,
    memory_BMNC: jax.Array,
    execution: Execution,
) -> tuple[jax.Array, jax.Array]:
    """S_t = exp(step_t decay) * S_{t-1} + write_t (step_t * c_t)^T and y_t = read_t S_t, frame by frame.

    Returns y (B, T, M, C) and the last S (B, M, N, C). S is N times as large as any other array here, and going back
    needs it at every frame. So nothing but the inputs is kept, and tokens, which are independent, go in groups: only
    one group's S is computed again at a time, and what that takes depends on neither the batch nor the layers.
    """
    batch, unroll = len(step_BTMC), execution.unroll is True

    def advance(memory_NC, frame):
        step_C, c_C, write_N, read_N = frame
        memory_NC = jnp.exp(step_C * decay_NC) * memory_NC + write_N[:, None] * (step_C * c_C)
        return memory_NC, (read_N[:, None] * memory_NC).sum(0)  # not a product, which accelerators may round

    def one_token(args):
        body = jax.checkpoint(advance, prevent_cse=unroll)
        memory_NC, frames = args
        return jax.lax.scan(body, memory_NC, frames, unroll=unroll)

    one_token = jax.checkpoint(one_token, prevent_cse=unroll)
    inputs = [rearrange(x, 'b t m c -> (b m) t c') for x in (step_BTMC, c_BTMC, write_BTMN, read_BTMN)]
    args = rearrange(memory_BMNC, 'b m n c -> (b m) n c'), inputs
    if unroll:
        memory, y = jax.vmap(one_token)(args)
    else:
        is_cpu = (execution.platform or jax.default_backend()) == 'cpu'
        memory, y = jax.lax.map(one_token, args, batch_size=AT_ONCE_CPU if is_cpu else AT_ONCE)
    y_BTMC = rearrange(y, '(b m) t c -> b t m c', b=batch)
    return y_BTMC, rearrange(memory, '(b m) n c -> b m n c', b=batch)


def _uniform(bound):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _step_bias(key, channels):
    """What softplus makes a step of, log-uniform between SHORTEST and LONGEST."""
    step = jnp.exp(jax.random.uniform(key, (channels,), minval=math.log(SHORTEST), maxval=math.log(LONGEST)))
    return step + jnp.log(-jnp.expm1(-step))

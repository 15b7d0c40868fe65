"""Several depths of a frozen encoder become one set of tokens (arXiv 2605.19137, multi-depth features)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import derivatives, layers
from rvm_jax.models.dropout import TrainContext

LAST = 'last'  # the last depth as it is, without adapters
MOMENTUM = 0.9  # of running statistics
EPSILON = 1e-5
STATISTICS = ('mean', 'var')  # names of what a step carries along and never differentiates


def tapped_blocks(taps: str, depth: int) -> tuple[int, ...]:
    """The blocks, counted from 0, whose outputs a mode takes of an encoder of so many; -1 is the embedding before all.

    '4_regular' is the last block of each quarter (12: 2, 5, 8, 11), '3_regular' of each third; '..._and_conv' adds the
    embedding, 'with_layer_0' the first block to the thirds; 'last' is the last alone. A depth that does not divide is
    rounded down, and up for its last quarter only (27: 5, 12, 19, 26). Raises UserError if there are too few blocks.
    """
    regular = {parts: tuple(depth * part // parts - 1 for part in range(1, parts + 1)) for parts in (1, 3, 4)}
    blocks = {
        LAST: regular[1],
        '4_regular': regular[4],
        '3_regular': regular[3],
        '4_regular_and_conv': (-1, *regular[4]),
        '3_regular_and_conv': (-1, *regular[3]),
        'with_layer_0': (0, *regular[3]),
    }[taps]
    if len(set(blocks)) < len(blocks) or (blocks[0] < 0) != taps.endswith('conv'):
        raise UserError(f'config.model.taps={taps}', f'the encoder has {depth} blocks', f'take {LAST}')
    return blocks


class Adapters(nnx.Module):
    """F_j = patches after block j, finally normed:  T_j = F_j + MLP_j(norm_j(F_j)),  output = mean over j of T_j.

    norm 'bn' normalizes each channel over all clips, frames and patches of a step, on every device, and by running
    statistics where nothing learns; 'ln' normalizes each token, so nothing crosses frames even in training.
    aggregator 'xattn' replaces the mean: the last T_j of a patch attends to all of them. CLS and registers come from
    the last depth and bypass all of it. Parameters have the depths on a leading axis.
    """

    def __init__(self, num_depths, width, *, norm, aggregator, execution, rngs):
        self.execution = execution
        self.norm = (BatchNorm if norm == 'bn' else LayerNorm)(num_depths, width, execution.precision.block)
        self.mlp = nnx.vmap(lambda rngs: layers.MLP(width, 2 * width, gelu='erf', rngs=rngs))(rngs.split(num_depths))
        is_attended = aggregator == 'xattn'
        self.attention = DepthAttention(num_depths, width, execution=execution, rngs=rngs) if is_attended else None

    def __call__(
        self, tapped_JBMD: jax.Array, num_prefix_tokens: int, learning: TrainContext | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Tokens (B, M, D) and, where `learning`, the running statistics after this batch ({} if there are none)."""
        features_JBND = tapped_JBMD[:, :, num_prefix_tokens:]
        normed_JBND, statistics = self.norm(features_JBND, learning)
        adapt = self._adapt
        if self.execution.remat != 'none':
            adapt = jax.checkpoint(adapt, policy=layers.policy(self.execution))
        tokens_BND = adapt(nnx.split((self.mlp, self.attention))[1], features_JBND, normed_JBND)
        prefix_BpD = tapped_JBMD[-1, :, :num_prefix_tokens]
        return jnp.concatenate([prefix_BpD, tokens_BND.astype(prefix_BpD.dtype)], axis=1), statistics

    def _adapt(self, params, features_JBND, normed_JBND):
        mlp, attention = nnx.merge(nnx.split((self.mlp, self.attention))[0], params)
        graphdef, stacked = nnx.split(mlp)
        adapted_JBND = features_JBND + jax.vmap(lambda p, x: nnx.merge(graphdef, p)(x))(stacked, normed_JBND)
        return adapted_JBND.mean(0) if attention is None else attention(adapted_JBND)


class BatchNorm(nnx.Module):
    """Each channel of each depth, over all tokens of a step; `mean` and `var` are not trained but carried along."""

    def __init__(self, num_depths, width, dtype):
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((num_depths, width)))
        self.bias = nnx.Param(jnp.zeros((num_depths, width)))
        self.mean = nnx.BatchStat(jnp.zeros((num_depths, width)))
        self.var = nnx.BatchStat(jnp.ones((num_depths, width)))

    def __call__(self, x_JBND: jax.Array, learning: TrainContext | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normed (J, B, N, D) and the new {'mean', 'var'} where `learning`, else {}."""
        x_JBND = x_JBND.astype(jnp.float32)
        mean_JD, var_JD, statistics = self.mean[...], self.var[...], {}
        if learning is not None:
            average = (lambda x: jax.lax.pmean(x, learning.axes)) if learning.axes else (lambda x: x)
            mean_JD = average(reduce(x_JBND, 'j b n d -> j d', 'mean'))
            var_JD = average(reduce(jnp.square(x_JBND - mean_JD[:, None, None]), 'j b n d -> j d', 'mean'))
            count = x_JBND.shape[1] * x_JBND.shape[2] * math.prod(map(jax.lax.axis_size, learning.axes))
            statistics = {
                'mean': MOMENTUM * self.mean[...] + (1 - MOMENTUM) * mean_JD,
                'var': MOMENTUM * self.var[...] + (1 - MOMENTUM) * var_JD * count / max(count - 1, 1),
            }
        normed_JBND = (x_JBND - mean_JD[:, None, None]) * jax.lax.rsqrt(var_JD + EPSILON)[:, None, None]
        return _scaled(self, normed_JBND), statistics


class LayerNorm(nnx.Module):
    """Each token of each depth by itself."""

    def __init__(self, num_depths, width, dtype):
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((num_depths, width)))
        self.bias = nnx.Param(jnp.zeros((num_depths, width)))

    def __call__(self, x_JBND: jax.Array, learning: TrainContext | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normed (J, B, N, D) and {}."""
        return _scaled(self, jax.nn.standardize(x_JBND.astype(jnp.float32), epsilon=EPSILON)), {}


def _scaled(norm, x_JBND):
    return (x_JBND * norm.scale[...][:, None, None] + norm.bias[...][:, None, None]).astype(norm.dtype)


class DepthAttention(nnx.Module):
    """Each patch of the last depth attends to the same patch at all depths, then an MLP; both with a residual."""

    def __init__(self, num_depths, width, *, execution, rngs):
        heads, dtype = 8, execution.precision.block
        plain = dataclasses.replace(execution, implementation='xla')  # one query and a few keys: nothing to fuse
        self.depth_token = nnx.Param(0.02 * nnx.initializers.normal(1.0)(rngs.params(), (num_depths, width)))
        self.query_norm = layers.layer_norm(width, dtype, epsilon=EPSILON, rngs=rngs)
        self.key_norm = layers.layer_norm(width, dtype, epsilon=EPSILON, rngs=rngs)
        self.attention = layers.Attention(width, heads, width // heads, execution=plain, rngs=rngs)
        self.mlp_norm = layers.layer_norm(width, dtype, epsilon=EPSILON, rngs=rngs)
        self.mlp = layers.MLP(width, 4 * width, gelu='erf', rngs=rngs)

    def __call__(self, x_JBND: jax.Array) -> jax.Array:
        """Returns (B, N, D)."""
        batch = x_JBND.shape[1]
        last = rearrange(x_JBND[-1], 'b n d -> (b n) 1 d')
        depths = rearrange(x_JBND, 'j b n d -> (b n) j d') + self.depth_token[...].astype(x_JBND.dtype)
        last = derivatives.kept(last + self.attention(self.query_norm(last), self.key_norm(depths)))
        last = last + self.mlp(self.mlp_norm(last))
        return rearrange(last, '(b n) 1 d -> b n d', b=batch)

"""What a forward pass does only while a model learns: dropout and stochastic depth, drawn clip by clip."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainContext:
    """Handed down a forward pass that learns; None stands for one that does not.

    keys_B2: key data (B, 2) uint32 of each clip, so that what is dropped does not depend on the device a clip is on.
    axes: mesh axes over which batch statistics are averaged, () where one device sees the whole batch.
    """

    keys_B2: jax.Array
    axes: tuple[str, ...] = dataclasses.field(default=(), metadata={'static': True})

    def fold_in(self, number: int | jax.Array) -> 'TrainContext':
        """The same with other keys: one number for each place that draws."""
        keys_B2 = jax.vmap(lambda key: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), number)))
        return dataclasses.replace(self, keys_B2=keys_B2(self.keys_B2))


def dropout(x: jax.Array, rate: float, learning: TrainContext | None, *, axes: int | None = None) -> jax.Array:
    """Zero a share `rate` of x (B, ...) and scale up the rest; x as it is where nothing learns or rate is 0.

    axes: how many axes after B have draws of their own (None: all); the rest is dropped together. For x (B, T, M, D)
    axes=1 drops whole frames: stochastic depth.
    """
    if learning is None or not rate:
        return x
    shape = x.shape[1:] if axes is None else (*x.shape[1 : 1 + axes], *(1,) * (x.ndim - 1 - axes))
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.wrap_key_data(key), 1 - rate, shape))(learning.keys_B2)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))

"""Which patches of a target frame stay visible; taking them out, and putting tokens back (RVM, masking)."""

import jax
import jax.numpy as jnp


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Patches kept, rounded down; 1 - mask_ratio is formed in float64 first, as released, so 250 at 0.9 keep 24."""
    return int(num_patches * (1.0 - mask_ratio))


def random_visible(
    key: jax.Array, batch_shape: tuple[int, ...], num_patches: int, mask_ratio: float, *, shared: bool = False
) -> jax.Array:
    """Draw the patches of each target frame that stay visible.

    Returns visible (*batch_shape, V) int32: patch indices in the order they are fed, a fresh draw for every target, or
    with shared one draw for all of them, as the released demo does. mask_ratio is the hidden fraction in [0, 1);
    V may be 0 on a tiny grid.
    """
    drawn_shape = () if shared else batch_shape
    order = jnp.argsort(jax.random.uniform(key, (*drawn_shape, num_patches)), axis=-1)
    visible = order[..., : num_visible(num_patches, mask_ratio)].astype(jnp.int32)
    return jnp.broadcast_to(visible, (*batch_shape, visible.shape[-1]))


def take_visible(patches_BNP: jax.Array, visible_BV: jax.Array) -> jax.Array:
    """The visible patches, (..., V, P), in the order of visible."""
    return jnp.take_along_axis(patches_BNP, visible_BV[..., None], axis=-2)


def restore_grid(tokens_BVE: jax.Array, visible_BV: jax.Array, filler_E: jax.Array, num_patches: int) -> jax.Array:
    """Put tokens back at their patches and filler at the hidden ones, (..., N, E)."""
    num_tokens = tokens_BVE.shape[-2]
    filler = jnp.broadcast_to(filler_E, (*tokens_BVE.shape[:-2], 1, tokens_BVE.shape[-1]))
    slots = jnp.full((*visible_BV.shape[:-1], num_patches), num_tokens)
    slots = jnp.put_along_axis(slots, visible_BV, jnp.arange(num_tokens), axis=-1, inplace=False)
    return jnp.take_along_axis(jnp.concatenate([tokens_BVE, filler.astype(tokens_BVE.dtype)], -2), slots[..., None], -2)


def hidden_mask(visible_BV: jax.Array, num_patches: int) -> jax.Array:
    """1 where a patch is hidden, 0 where it is seen, (..., N) float32."""
    seen = jnp.zeros((*visible_BV.shape[:-1], num_patches))
    return 1.0 - jnp.put_along_axis(seen, visible_BV, 1.0, axis=-1, inplace=False)

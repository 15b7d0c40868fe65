"""What the losses of several tasks are made of. What a mask leaves out never reaches a value or a gradient."""

import jax.numpy as jnp


def masked_mean(values, mask):
    """Mean of values where mask, over everything; 0 where there is nothing. mask broadcasts to values."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def known(truth, mask, filler=0):
    """truth where mask, filler elsewhere, so that arithmetic on what is missing stays finite, its gradient too."""
    return jnp.where(mask, truth, filler)


def norm(x, epsilon=1e-12):
    """Length along the last axis, with a finite gradient at 0."""
    return jnp.sqrt(jnp.square(x).sum(-1) + epsilon)


def huber(distance, delta):
    """Half the square below delta, from there on a line."""
    return jnp.where(distance < delta, jnp.square(distance) / 2, delta * (distance - delta / 2))

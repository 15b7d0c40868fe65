"""Many queries in bounded memory: queries of a readout do not see each other, so they can take turns."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange

FLOATS_AT_ONCE = 2**27  # half a gigabyte


def by_chunks(read, queries_BQE, floats_per_query):
    """read(queries_BqE) -> (b, q, K) for all queries: as many at once as keep within memory; exact.

    floats_per_query: how many numbers one query needs in the middle of `read`, for all clips together. Where one call
    would be too much, the parts come one after the other and are computed again going back. B may be 1 where the
    queries are the same for all clips.
    """
    num_queries = queries_BQE.shape[1]
    num_chunks = math.ceil(num_queries / max(1, FLOATS_AT_ONCE // floats_per_query))
    if num_chunks <= 1:
        return read(queries_BQE)
    size = math.ceil(num_queries / num_chunks)
    padded_BQE = jnp.pad(queries_BQE, ((0, 0), (0, num_chunks * size - num_queries), (0, 0)))
    outputs = jax.lax.map(jax.checkpoint(read), rearrange(padded_BQE, 'b (c q) e -> c b q e', c=num_chunks))
    return rearrange(outputs, 'c b q k -> b (c q) k')[:, :num_queries]

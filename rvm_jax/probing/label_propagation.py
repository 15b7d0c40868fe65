"""Labels of a first frame carried through a video by nearest neighbors of features (RVM, nearest-neighbor evaluation).

Each cell of frame t looks at a context: frame 0 with its labels, then the last few frames with their predictions,
oldest first. The top_k cells of the context with the largest affinity <f_t, f_c> / temperature vote by softmax:

    labels_t = sum over those cells of softmax(affinity) * labels_c

In the last few frames only cells nearer than radius count; all cells of frame 0 count. The queue of last frames starts
with copies of frame 0. Frame 0 is predicted like any other frame. For equal affinities the lowest context index wins:
the older frame, then the upper row, then the left column.

How this is exact, small and fast: the frame is cut into stripes of columns, and a stripe is only multiplied with the
stripes it can reach. The top_k cells lie in the top_k rows (of the reach of a stripe, in one frame) with the largest
maxima. So instead of sorting whole rows of affinities, take a maximum over columns and sort a few hundred candidates.
Only the affinities of one stripe exist at a time.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

STRIPE = 5  # columns: with a radius of 20, narrower stripes save few products, and small products are slow
NOWHERE = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What the next frame is compared with. The queue is a ring of S slots; slot `seen` mod S holds the oldest frame.

    queue is a tuple of stripes (S, h, columns, D); labels_ChwK holds frame 0, then the slots.
    """

    first_hwD: jax.Array
    queue: tuple[jax.Array, ...]
    labels_ChwK: jax.Array
    seen: jax.Array


def start(features_hwD: Any, labels_hwK: Any, num_context: int) -> Context:
    """The context before frame 0: its features (L2-normalized) and labels, and num_context copies of them.

    Raises ValueError if num_context is less than 1, or if the grids of the two differ.
    """
    # Copies, because `_vote` donates the buffers of a context.
    first_hwD, labels_hwK = jnp.array(features_hwD, jnp.float32), jnp.array(labels_hwK, jnp.float32)
    if num_context < 1 or first_hwD.shape[:2] != labels_hwK.shape[:2]:
        raise ValueError(f'{num_context} context frames, features {first_hwD.shape}, labels {labels_hwK.shape}')
    queue = tuple(jnp.repeat(stripe[None], num_context, axis=0) for stripe in cut_into_stripes(first_hwD))
    return Context(first_hwD, queue, jnp.repeat(labels_hwK[None], 1 + num_context, axis=0), jnp.int32(0))


def step(
    context: Context, features_hwD: Any, *, top_k: int, temperature: float, radius: float, restrict: bool = True
) -> tuple[Context, jax.Array]:
    """(next context, labels_hwK) of the next frame, starting with frame 0. The given context cannot be used again.

    radius is in cells, exclusive. restrict=False removes it, as one of the released notebooks does by mistake.
    """
    features_hwD = jnp.asarray(features_hwD, jnp.float32)
    radius = radius if restrict else math.inf
    stripes = cut_into_stripes(features_hwD)
    spans = [(start, start + stripe.shape[1]) for start, stripe in zip(_starts(features_hwD), stripes, strict=True)]
    found = []
    for here, query_hxD in zip(spans, stripes, strict=True):
        reached = [place for place, there in enumerate(spans) if _gap(here, there) < radius]
        queue = [context.queue[place] for place in reached]
        near = [_near(len(features_hwD), here, spans[place], radius) for place in reached]
        columns = [np.arange(*spans[place], dtype=np.int32) for place in reached]
        found.append(_neighbors(query_hxD, context.first_hwD, queue, near, columns, context.seen, top_k=top_k))
    return _vote(context, features_hwD, found, temperature)


def stream(
    features: Iterable[Any],
    labels_hwK: Any,
    *,
    top_k: int = 7,
    temperature: float = 0.7,
    num_context: int = 20,
    radius: float = 20,
    restrict: bool = True,
) -> Iterator[np.ndarray]:
    """Yield the labels (h, w, K), float32, of each frame of features, an iterable of L2-normalized (h, w, D).

    labels_hwK are those of frame 0. Memory does not grow with the number of frames.
    """
    context = None
    for features_hwD in features:
        if context is None:
            context = start(features_hwD, labels_hwK, num_context)
        context, predicted_hwK = step(
            context, features_hwD, top_k=top_k, temperature=temperature, radius=radius, restrict=restrict
        )
        yield np.asarray(predicted_hwK)


def propagate(features_ThwD: Iterable[Any], labels_hwK: Any, **settings: Any) -> np.ndarray:
    """The labels (T, h, w, K), float32, of a whole video at once; settings as for `stream`."""
    return np.stack(list(stream(features_ThwD, labels_hwK, **settings)))


def cut_into_stripes(features_hwD: Any) -> tuple[Any, ...]:
    """A tuple of stripes (h, columns, D), from the left; the last one may be narrower."""
    return tuple(features_hwD[:, start : start + STRIPE] for start in _starts(features_hwD))


def _starts(features_hwD):
    return range(0, features_hwD.shape[1], STRIPE)


def _gap(here, there):
    """Distance in columns between the nearest columns of two spans; 0 if they overlap."""
    return max(here[0] - there[1] + 1, there[0] - here[1] + 1, 0)


@functools.lru_cache(maxsize=1024)
def _near(height, here, there, radius):
    """Mask to add to affinities (row, column there; query here): 0 within the radius, else -inf."""
    rows, columns_X = np.arange(height), np.arange(*there)
    query_rows_Q, query_columns_Q = (part.ravel() for part in np.meshgrid(rows, np.arange(*here), indexing='ij'))
    distance2 = (rows[:, None, None] - query_rows_Q) ** 2 + (columns_X[:, None] - query_columns_Q) ** 2
    return np.where(distance2 < radius**2, 0, -np.inf).astype(np.float32)


@functools.partial(jax.jit, static_argnames='top_k')
def _neighbors(query_hxD, first_hwD, stripes, near, columns, seen, *, top_k):
    """Affinities and context indices, (top_k, h, x) each, of the best cells in the context for one stripe of queries.

    stripes (S, h, X, D) are those within reach; near (h, X, queries) is added to their affinities, and columns (X) are
    their columns in the frame. A context index counts (frame, row, column) as in the protocol; below, rows of the
    context are counted as (frame, row).
    """
    (height, width), num_slots = first_hwD.shape[:2], len(stripes[0])
    query_QD = query_hxD.reshape(-1, query_hxD.shape[-1])

    def candidates(frames, near, columns, ages_S):
        """The cells of the top_k rows with the largest maxima: affinities and context indices, (candidates, Q) each."""
        parts = [_affinity(frames_ShXD, query_QD) for frames_ShXD in frames]
        maxima = [(part_ShXQ + near_hXQ).max(axis=2) for part_ShXQ, near_hXQ in zip(parts, near, strict=True)]
        maxima_RQ = rearrange(functools.reduce(jnp.maximum, maxima), 'S h Q -> (S h) Q')
        rows_R = (ages_S[:, None] * height + jnp.arange(height)).reshape(-1)
        _, best_kQ = _largest(maxima_RQ, rows_R[:, None], top_k)

        ages_k1Q, rows_k1Q = jnp.divmod(best_kQ[:, None], height)
        places_k1Q = _slot(ages_k1Q, seen, len(ages_S)) * height + rows_k1Q
        cells = [rearrange(part_ShXQ, 'S h X Q -> (S h) X Q') for part_ShXQ in parts]
        affinity = [
            jnp.take_along_axis(cells_RXQ, places_k1Q, axis=0) + jnp.take_along_axis(near_hXQ, rows_k1Q, axis=0)
            for cells_RXQ, near_hXQ in zip(cells, near, strict=True)
        ]
        index = [best_kQ[:, None] * width + columns_X[:, None] for columns_X in columns]
        return [rearrange(jnp.concatenate(part, axis=1), 'k X Q -> (k X) Q') for part in (affinity, index)]

    everywhere = jnp.zeros((height, width, len(query_QD)))
    first = candidates([first_hwD[None]], [everywhere], [jnp.arange(width)], jnp.zeros(1, int))
    recent = candidates(stripes, near, columns, 1 + (jnp.arange(num_slots) - seen) % num_slots)
    affinity_CQ, index_CQ = (jnp.concatenate(pair) for pair in zip(first, recent, strict=True))
    return [part.reshape(top_k, *query_hxD.shape[:2]) for part in _largest(affinity_CQ, index_CQ, top_k)]


def _slot(age, seen, num_slots):
    """The slot of the frame at place `age` of the context; age 1 is the oldest frame of the queue."""
    return (age - 1 + seen) % num_slots


def _affinity(frames_ShXD, query_QD):
    affinity_CQ = jnp.matmul(frames_ShXD.reshape(-1, query_QD.shape[1]), query_QD.T, precision='highest')
    return affinity_CQ.reshape(*frames_ShXD.shape[:3], -1)


def _largest(values_CQ, index_CQ, top_k):
    """The top_k largest of each column, and their indices; of equal values the lowest index wins. An index counts once.

    It makes one pass for each value, which for a few values is faster on a CPU than lax.top_k.
    """

    def take(values_CQ, _):
        largest_Q = values_CQ.max(axis=0)
        lowest_Q = jnp.where(values_CQ == largest_Q, index_CQ, NOWHERE).min(axis=0)
        return jnp.where(index_CQ == lowest_Q, -jnp.inf, values_CQ), (largest_Q, lowest_Q)

    return jax.lax.scan(take, values_CQ, length=top_k)[1]


@functools.partial(jax.jit, donate_argnames='context')
def _vote(context, features_hwD, found, temperature):
    """(next context, labels_hwK), given affinities and context indices (top_k, h, x) of each stripe."""
    affinity_khw, index_khw = (jnp.concatenate(parts, axis=2) for parts in zip(*found, strict=True))
    num_slots, num_cells = len(context.labels_ChwK) - 1, math.prod(features_hwD.shape[:2])
    age_khw, cell_khw = index_khw // num_cells, index_khw % num_cells
    place_khw = jnp.where(age_khw == 0, 0, 1 + _slot(age_khw, context.seen, num_slots))
    labels_khwK = rearrange(context.labels_ChwK, 'C h w K -> C (h w) K')[place_khw, cell_khw]
    votes_khw = jax.nn.softmax(affinity_khw / temperature, axis=0)
    predicted_hwK = jnp.sum(votes_khw[..., None] * labels_khwK, axis=0)

    slot = context.seen % num_slots
    stripes = zip(context.queue, cut_into_stripes(features_hwD), strict=True)
    return Context(
        context.first_hwD,
        tuple(kept.at[slot].set(new) for kept, new in stripes),
        context.labels_ChwK.at[1 + slot].set(predicted_hwK),
        context.seen + 1,
    ), predicted_hwK

"""Seconds per frame of label propagation: ours, plain NumPy, plain JAX and plain PyTorch, on the same features.

    python benchmarks/label_propagation.py [--widths 384 1024] [--frames 8] [--grid 30 55] [--top-k 7]

Features are random directions, one for each cell of each frame, so that the nearest cells are not obvious. The labels
of frame 0 are random too, with 4 channels. The protocol is that of DAVIS: 30 x 55 cells (480 x 880 pixels), frame 0 and
a queue of 20 frames. The plain methods multiply each frame with the whole context, add the mask of the radius, divide
by the temperature and sort: the affinities of a frame are 229 MB. NumPy sorts by argpartition, JAX by lax.top_k,
PyTorch by topk. The methods take turns, frame by frame. The first frame of each, which compiles and fills caches, does
not count. CPU seconds are the time of all threads of the process; on a shared machine they vary less than wall time.

The queue starts with different frames, because between copies of frame 0 the choice of a method is arbitrary. A cell
differs if a label is more than 1e-5 from ours; cells of all frames count. Two affinities that differ in the last bit
can change places at the end of the top k, because each library sums in its own order.
"""

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np

from rvm_jax.probing import label_propagation
from rvm_jax.probing.tasks.propagation import DAVIS

CHANNELS = 4
FAR = np.float32(-1e10)
SAME = 1e-5  # of labels in [0, 1]


class Ours:
    """The module under test."""

    name = 'ours'

    def __init__(self, features_ChwD, labels_ChwK, top_k):
        self._top_k = top_k
        self._context = label_propagation.start(features_ChwD[0], labels_ChwK[0], len(features_ChwD) - 1)
        stripes = [
            np.stack(parts) for parts in zip(*map(label_propagation.cut_into_stripes, features_ChwD[1:]), strict=True)
        ]
        self._context = label_propagation.Context(
            self._context.first_hwD, tuple(map(jnp.array, stripes)), jnp.array(labels_ChwK), jnp.int32(0)
        )

    def step(self, features_hwD):
        """Labels (h, w, K) of the next frame."""
        self._context, labels_hwK = label_propagation.step(
            self._context, features_hwD, top_k=self._top_k, temperature=DAVIS.temperature, radius=DAVIS.radius
        )
        return np.asarray(jax.block_until_ready((self._context, labels_hwK))[1])


class Plain:
    """All affinities at once, in another library: vote(query, context, labels) computes the labels of a frame."""

    def __init__(self, name, vote, features_ChwD, labels_ChwK, top_k):
        self.name, self._vote, self._top_k = name, vote, top_k
        self._features = features_ChwD.reshape(len(features_ChwD), -1, features_ChwD.shape[-1]).copy()
        self._labels = labels_ChwK.reshape(len(labels_ChwK), -1, CHANNELS).copy()
        self._far = mask_of(features_ChwD.shape[1:3])

    def step(self, features_hwD):
        """Labels (h, w, K) of the next frame."""
        query_ND = features_hwD.reshape(self._features.shape[1:])
        labels_NK = self._vote(query_ND, self._features, self._labels, self._far, self._top_k)
        for kept, new in ((self._features, query_ND), (self._labels, labels_NK)):
            kept[1:-1] = kept[2:]
            kept[-1] = new
        return labels_NK.reshape(*features_hwD.shape[:2], -1)


def mask_of(grid):
    rows, columns = (part.ravel() for part in np.mgrid[: grid[0], : grid[1]])
    distance2 = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    return np.where(distance2 >= DAVIS.radius**2, FAR, np.float32(0))


def numpy_vote(query_ND, context_CND, labels_CNK, far_NN, top_k):
    affinity = (query_ND @ context_CND.reshape(-1, query_ND.shape[1]).T).reshape(len(query_ND), len(context_CND), -1)
    affinity /= np.float32(DAVIS.temperature)
    affinity[:, 1:] += far_NN[:, None]
    affinity = affinity.reshape(len(query_ND), -1)
    best = np.argpartition(affinity, -top_k, axis=1)[:, -top_k:]
    weights = np.exp(np.take_along_axis(affinity, best, axis=1))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum('nk,nkc->nc', weights, labels_CNK.reshape(-1, CHANNELS)[best])


@jax.jit(static_argnames='top_k')
def _jax_vote(query_ND, context_CND, labels_CNK, far_NN, top_k):
    affinity = jnp.einsum('qd,cnd->qcn', query_ND, context_CND) / DAVIS.temperature
    affinity = affinity.at[:, 1:].add(far_NN[:, None])
    largest, best = jax.lax.top_k(affinity.reshape(len(query_ND), -1), top_k)
    return jnp.einsum('nk,nkc->nc', jax.nn.softmax(largest, axis=1), labels_CNK.reshape(-1, CHANNELS)[best])


def jax_vote(*arrays):
    return np.asarray(_jax_vote(*arrays))


def torch_vote(query_ND, context_CND, labels_CNK, far_NN, top_k):
    import torch

    query, context, labels, far = map(torch.from_numpy, (query_ND, context_CND, labels_CNK, far_NN))
    affinity = torch.einsum('qd,cnd->qcn', query, context) / DAVIS.temperature
    affinity[:, 1:] += far[:, None]
    largest, best = affinity.flatten(1).topk(top_k, dim=1)
    return torch.einsum('nk,nkc->nc', largest.softmax(dim=1), labels.flatten(0, 1)[best]).numpy()


def random_features(rng, *shape):
    features = rng.standard_normal(shape, np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def measure(width, grid, num_frames, top_k):
    rng = np.random.default_rng(0)
    context = random_features(rng, 1 + DAVIS.num_context, *grid, width)
    labels = rng.random((1 + DAVIS.num_context, *grid, CHANNELS), np.float32)
    votes = {'NumPy': numpy_vote, 'JAX, lax.top_k': jax_vote}
    if importlib.util.find_spec('torch'):
        votes['PyTorch'] = torch_vote
    ways = [Ours(context, labels, top_k), *(Plain(name, vote, context, labels, top_k) for name, vote in votes.items())]
    taken, differences = {way.name: [] for way in ways}, {name: [] for name in votes}
    for frame in range(1 + num_frames):
        features_hwD, found = random_features(rng, *grid, width), {}
        for way in ways:
            start = time.perf_counter(), time.process_time()
            found[way.name] = way.step(features_hwD)
            if frame:
                taken[way.name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
        for name in votes:
            differences[name].append(np.abs(found[name] - found['ours']).max(axis=-1))
    return taken, differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--widths', type=int, nargs='+', default=[384, 1024])
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--grid', type=int, nargs=2, default=[30, 55])
    parser.add_argument('--top-k', type=int, default=DAVIS.top_k)
    args = parser.parse_args()
    print('| width | method | s/frame, best | median | CPU s, median | ours faster by | cells that differ | others |')
    print('| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |')
    for width in args.widths:
        taken, differences = measure(width, tuple(args.grid), args.frames, args.top_k)
        ours = np.median([wall for wall, _ in taken['ours']])
        for name, times in taken.items():
            (wall, cpu), best = np.median(times, axis=0), min(wall for wall, _ in times)
            beside = '| |'
            if name in differences:
                cells = np.array(differences[name])
                same = cells[cells < SAME]
                beside = f'{wall / ours:.2f} × | {np.sum(cells >= SAME)} of {cells.size} | {same.max():.1e}'
            print(f'| {width} | {name} | {best:.3f} | {wall:.3f} | {cpu:.3f} | {beside} |', flush=True)


if __name__ == '__main__':
    main()

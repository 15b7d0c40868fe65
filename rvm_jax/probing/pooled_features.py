"""One vector a clip, its features averaged over tokens and frames, for the readouts of `readouts.pooled`."""

import dataclasses
from collections.abc import Callable, Container, Mapping
from typing import Any

import jax
import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing import feature_batches
from rvm_jax.probing.train_readout import NEVER
from rvm_jax.signals import StopRequest


@dataclasses.dataclass(frozen=True)
class PooledClips:
    """The vectors of the clips of a source, with the id and label of each; shown has some whole examples by number."""

    vectors_ND: np.ndarray
    labels_N: np.ndarray
    ids: list[str]
    shown: dict[int, dict[str, Any]]


def read(
    data: feature_batches.Batches,
    *,
    batch_size: int,
    shown: Container[int] = (),
    stop: StopRequest = NEVER,
    progress: Callable[[int], None] = lambda count: None,
) -> PooledClips:
    """The vectors of all clips as they are evaluated: not augmented, and one clip of each video for training.

    Raises UserError if a feature is not finite, and Stopped on SIGTERM or Ctrl-C; progress(count) is called after each
    batch of `count` clips.
    """
    mesh = feature_batches.make_mesh(batch_size)
    average = jax.jit(lambda features_BTMD: features_BTMD.mean((1, 2)))
    vectors: list[np.ndarray] = []
    labels: list[int] = []
    ids: list[str] = []
    kept: dict[int, dict[str, Any]] = {}
    for features_BTMD, _, some in data.evaluation(batch_size=batch_size, mesh=mesh):
        stop.current = 'a batch'
        vectors.append(np.asarray(average(features_BTMD))[: len(some)])
        if not np.isfinite(vectors[-1]).all():
            raise UserError('--model', 'gives features that are not finite', 'choose another model or --precision')
        kept |= {number: example for number, example in enumerate(some, len(ids)) if number in shown}
        labels += [int(example['label']) for example in some]
        ids += [example['id'] for example in some]
        progress(len(some))
        stop.check('no readout is finished')
    return PooledClips(np.concatenate(vectors), np.array(labels), ids, kept)


def score(
    task: Any, readouts: Mapping[str, Any], known: PooledClips, asked: PooledClips
) -> tuple[dict[str, dict[str, float]], list[tuple[dict, dict]]]:
    """({readout: scores}, [(prediction of the first readout, example), ...] of the shown clips).

    Readouts are fitted to the known clips, and answer for the asked ones.
    """
    scores: dict[str, dict[str, float]] = {}
    drawn: list[tuple[dict, dict]] = []
    for name, readout in readouts.items():
        predict = readout.fit(known.vectors_ND, known.labels_N, known.ids, task.num_classes)
        found = [{'probabilities_K': answer_K} for answer_K in predict(asked.vectors_ND)]
        examples = [{'id': name, 'label': label} for name, label in zip(asked.ids, asked.labels_N, strict=True)]
        scores[name] = task.scores(list(map(task.measure, found, examples)))
        drawn = drawn or [(found[number], example) for number, example in sorted(asked.shown.items())]
    return scores, drawn

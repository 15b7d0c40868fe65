import os
import signal

import jax
import numpy as np
import pytest

from rvm_jax import pretrained
from rvm_jax.errors import DataError, Diverged, Stopped, UserError
from rvm_jax.probing import feature_batches, train_readout
from rvm_jax.probing.backbone import Backbone, open_backbone
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.signals import StopRequest
from rvm_jax.training.checkpoint import Checkpoints

TASK = Recognition(2, channels=16, heads=2)
SCHEDULE = train_readout.Schedule(steps=60, batch_size=8, peak_lr=3e-3, warmup=6)


@pytest.fixture(scope='module')
def backbone(export):
    return open_backbone(export)


@pytest.fixture(scope='module')
def learned(backbone, moving):
    """(data, readout, curve) of a whole schedule."""
    data = feature_batches.Batches(backbone, moving(16))
    return data, *train_readout.train_readout(TASK, data, SCHEDULE, seed=0)


def leaves(readout):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(train_readout.nnx.state(readout))]


def test_a_readout_learns_to_tell_clips_apart(learned):
    data, readout, curve = learned
    scores, shown = train_readout.evaluate_readout(TASK, data, readout, batch_size=8, shown=(3, 15))
    assert scores['top1'] == 1.0 and [example['id'] for _, example in shown] == ['3', '15']
    assert [point['step'] for point in curve] == [50, 60]
    assert all(np.argmax(prediction['probabilities_K']) == example['label'] for prediction, example in shown)


def test_the_same_seed_gives_the_same_readout(backbone, moving):
    data = feature_batches.Batches(backbone, moving(10))
    schedule = train_readout.Schedule(steps=2, batch_size=4, warmup=0)
    one, again, other = (train_readout.train_readout(TASK, data, schedule, seed=seed)[0] for seed in (0, 0, 1))
    assert all(map(np.array_equal, leaves(one), leaves(again)))
    assert not all(map(np.array_equal, leaves(one), leaves(other)))


def test_every_epoch_has_each_example_once_in_another_order():
    epochs = [[feature_batches.drawn(7, item, 10) for item in range(first, first + 10)] for first in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]


def test_a_last_batch_that_is_not_full_counts_each_example_once(backbone, moving):
    found = list(
        feature_batches.Batches(backbone, moving(5)).evaluation(batch_size=4, mesh=feature_batches.make_mesh(4))
    )
    assert [len(examples) for _, _, examples in found] == [4, 1]
    assert all(features.shape[0] == len(batch['label']) == 4 for features, batch, _ in found)


def broken(source, *indices):
    """The source with examples that cannot be read."""
    read = source.example

    def example(index, rng=None):
        if index in indices:
            raise DataError(f'{index}.mp4', 'is cut off', 'remove it')
        return read(index, rng)

    source.example = example
    return source


def test_unreadable_clips_are_left_out_and_named(backbone, moving):
    data = feature_batches.Batches(backbone, broken(moving(20), 3, 19))
    train_readout.train_readout(TASK, data, train_readout.Schedule(steps=5, batch_size=4, warmup=0), seed=0)
    assert data.failed == {3: '3.mp4: is cut off; remove it', 19: '19.mp4: is cut off; remove it'}
    mesh = feature_batches.make_mesh(4)
    drawn = {str(draw) for draw in (feature_batches.drawn(0, item, 20) for item in range(20))}
    assert {'3', '19'} < drawn
    read = [example['id'] for *_, some in data.evaluation(batch_size=4, mesh=mesh) for example in some]
    assert read == [str(index) for index in range(20) if index not in (3, 19)]


def test_too_many_unreadable_clips_end_a_probe(backbone, moving):
    data = feature_batches.Batches(backbone, broken(moving(20), 3, 4, 5))
    with pytest.raises(DataError, match=r'^\d.mp4: is cut off, and 3 of 20 clips cannot be read; repair the data'):
        list(data.evaluation(batch_size=4, mesh=feature_batches.make_mesh(4)))


def test_a_stopped_readout_resumes_exactly(learned, tmp_path):
    data, whole, curve = learned

    def stop_at_50(step, loss):
        if step == 50:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match='saved at step 50'), StopRequest() as stop, Checkpoints(tmp_path) as saves:
        train_readout.train_readout(TASK, data, SCHEDULE, seed=0, checkpoints=saves, stop=stop, progress=stop_at_50)
    with Checkpoints(tmp_path) as saves:
        resumed, curve_resumed = train_readout.train_readout(TASK, data, SCHEDULE, seed=0, checkpoints=saves)
    assert curve_resumed == curve
    assert all(map(np.array_equal, leaves(resumed), leaves(whole)))


def test_a_loss_that_is_not_finite_ends_the_readout(export, moving):
    class Broken(Backbone):
        def encode(self, frames, state=None):
            return np.nan * super().encode(frames)[0], ()

    data = feature_batches.Batches(Broken(pretrained.load(export)), moving(8))
    with pytest.raises(Diverged, match='not finite at step'):
        train_readout.train_readout(TASK, data, train_readout.Schedule(steps=2, batch_size=4, warmup=0), seed=0)


def test_a_schedule_warms_up_and_ends_where_it_was_published_to():
    schedule = train_readout.Schedule()
    assert (schedule.steps, schedule.batch_size, schedule.peak_lr, schedule.warmup) == (40_000, 32, 3e-4, 1_000)
    rate = schedule.learning_rate()
    np.testing.assert_allclose([rate(0), rate(500), rate(1000), rate(40_000)], [0, 1.5e-4, 3e-4, 1e-7], rtol=1e-5)
    with pytest.raises(UserError, match='warmup=1000: must be shorter than the schedule of 500 steps'):
        train_readout.Schedule(steps=500)

import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.probing.tasks.losses import scores_of
from rvm_jax.probing.tasks.recognition import Recognition

EXAMPLES = [{'id': 'a', 'label': np.int32(2)}, {'id': 'b', 'label': np.int32(0)}]
LABELS = {'label': np.int32([2, 0])}


def test_a_certain_right_answer_costs_nothing():
    logits_BQK = 30 * jnp.eye(3)[LABELS['label']][:, None]
    loss, extras = Recognition(3).loss(lambda _: logits_BQK, None, LABELS)
    assert loss < 1e-6 and extras['accuracy'] == 1
    assert Recognition(3).loss(lambda _: -logits_BQK, None, LABELS)[0] > 10


def test_streaming_answers_from_the_last_frame_alone():
    features_BTMD = jnp.arange(2 * 4.0).reshape(2, 4, 1, 1)

    def readout(features_BTMD):  # as FrameReadout: B, T, Q, K
        return jnp.eye(3)[features_BTMD[:, :, 0, 0].astype(int) % 3][:, :, None]

    found = Recognition(3, streaming=True).predict(readout, features_BTMD, LABELS)['probabilities_K']
    assert found.argmax(-1).tolist() == [3 % 3, 7 % 3] and np.allclose(found.sum(-1), 1)


def test_features_of_repeated_pictures_can_be_averaged_first():
    features_BTMD = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 8)))
    task = Recognition(3, mean_over_time=True)
    read = []
    task.predict(lambda features: read.append(features) or jnp.zeros((2, 1, 3)), features_BTMD, LABELS)
    np.testing.assert_allclose(read[0], features_BTMD.mean(1, keepdims=True), atol=1e-6)
    assert nnx.eval_shape(lambda: task.readout(8, 4, nnx.Rngs(0))).temporal_code.shape == (1, 8)
    with pytest.raises(UserError, match='choose one'):
        Recognition(3, streaming=True, mean_over_time=True)


def test_the_classes_of_data_must_fit_the_task(caplog):
    task, source = Recognition(400), lambda count: types.SimpleNamespace(classes=('a',) * count)
    task.fitted(source(400), source(400))
    assert not caplog.messages
    with pytest.raises(UserError, match=r'^700 classes: are in this data, but 400 in the task; choose the benchmark'):
        task.fitted(source(700), source(700))
    task.fitted(source(3), source(3))
    assert caplog.messages[0].startswith('the data has 3 classes, fewer than the 400 of the task')
    with pytest.raises(UserError, match=r'^--train-data: does not have the classes of --data'):
        task.fitted(source(400), source(3))


def test_clips_of_a_video_vote():
    examples = [{'id': 'a', 'label': 1}, {'id': 'a', 'label': 1}, {'id': 'b', 'label': 0}]
    found = [{'probabilities_K': np.array(p)} for p in ([0.6, 0.4], [0.1, 0.9], [0.3, 0.7])]
    assert scores_of(Recognition(2), found, examples) == {'top1': 0.5, 'chance': 0.5}


@pytest.mark.parametrize('streaming', [False, True])
def test_a_readout_learns_two_clips(overfit, streaming):
    task = Recognition(3, channels=16, heads=2, streaming=streaming)
    before, after, scores = overfit(task, EXAMPLES)
    assert after < 0.05 < 0.5 < before and scores['top1'] == 1

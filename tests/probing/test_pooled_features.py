import numpy as np
import pytest

from rvm_jax import pretrained
from rvm_jax.errors import UserError
from rvm_jax.probing import feature_batches, pooled_features
from rvm_jax.probing.backbone import Backbone, open_backbone
from rvm_jax.probing.readouts.pooled import Linear, NearestClips
from rvm_jax.probing.tasks.recognition import Recognition


def test_vectors_are_features_averaged_over_tokens_and_frames(export, moving):
    backbone = open_backbone(export)
    found = pooled_features.read(feature_batches.Batches(backbone, moving(5)), batch_size=4, shown=(1, 4))
    videos_BTHWC = np.stack([moving(5).example(index)['video_THWC'] for index in range(5)])
    expected_BD = np.asarray(backbone.encode(videos_BTHWC)[0]).mean((1, 2))
    np.testing.assert_allclose(found.vectors_ND, expected_BD, atol=1e-5)
    assert found.labels_N.tolist() == [0, 1, 0, 1, 0] and found.ids == ['0', '1', '2', '3', '4']
    assert [example['id'] for example in found.shown.values()] == ['1', '4']


def test_clips_of_a_video_vote_together():
    known = pooled_features.PooledClips(np.eye(2), np.array([0, 1]), ['a', 'b'], {})
    vectors_ND = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # the second clip of x is nearer to b, but less so
    asked = pooled_features.PooledClips(vectors_ND, np.array([0, 0, 1]), ['x', 'x', 'y'], {1: {'id': 'x'}})
    scores, drawn = pooled_features.score(Recognition(2), {'linear': Linear(), 'knn': NearestClips()}, known, asked)
    assert scores['linear'] == {'top1': 1, 'chance': 0.5} and list(scores) == ['linear', 'knn']
    [(prediction, example)] = drawn
    assert example == {'id': 'x'} and prediction['probabilities_K'].argmax() == 1


def test_features_that_are_not_finite_are_refused(export, moving):
    class Broken(Backbone):
        def encode(self, frames, state=None):
            return np.nan * super().encode(frames)[0], ()

    data = feature_batches.Batches(Broken(pretrained.load(export)), moving(4))
    with pytest.raises(UserError, match='--model: gives features that are not finite; choose another model'):
        pooled_features.read(data, batch_size=4)

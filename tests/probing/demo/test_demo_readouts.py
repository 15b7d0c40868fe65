"""Readouts of the demo suite on features that say everything, or nothing."""

import types

import numpy as np
import pytest

from rvm_jax.probing import train_readout
from rvm_jax.probing.demo import demo_readouts
from rvm_jax.probing.demo.demo_clips import DemoClips, NoiseSquares

SIZE, GRID = 32, demo_readouts.GRID


class Told:
    """Features made from what is to be told: tell(example) -> (T, h, w, D)."""

    width, num_prefix_tokens = 0, 0

    def __init__(self, source, tell):
        self.source, self.tell, self.next = source, tell, 0

    def encode(self, frames_BTHWC):
        examples = [self.source.example(self.next + index) for index in range(len(frames_BTHWC))]
        self.next += len(examples)
        features_BThwD = np.stack([self.tell(example) for example in examples]).astype(np.float32)
        return features_BThwD.reshape(*features_BThwD.shape[:2], GRID * GRID, -1), ()


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clips')
    return [
        DemoClips(str(folder / name), count, seed=seed, num_frames=6, size=SIZE)
        for name, count, seed in (('train', 96, 0), ('held_out', 24, 1))
    ]


def data(sources, tell):
    return [demo_readouts.Data.of(Told(source, tell), source) for source in sources]


def everywhere(values_D):
    return lambda example: np.broadcast_to(values_D(example), (6, GRID, GRID, np.size(values_D(example))))


def nothing(example):
    return np.ones((6, GRID, GRID, 1)) + np.random.default_rng(int(example['label'])).normal(size=(6, GRID, GRID, 1))


def test_the_motion_class_is_read_from_features_that_hold_it(sources):
    scores, drawn = demo_readouts.motion(*data(sources, everywhere(lambda e: np.eye(8)[e['label']])))
    assert scores['top1'] == 1.0 and len(list(drawn)) == demo_readouts.PICTURED


def test_an_attentive_readout_learns_motion_from_the_last_frame(sources, monkeypatch):
    def last(example):
        features = np.zeros((6, GRID, GRID, 8))
        features[-1] = np.eye(8)[example['label']]
        return features

    monkeypatch.setattr(
        demo_readouts, 'SCHEDULE', train_readout.Schedule(steps=60, batch_size=11, peak_lr=1e-2, warmup=6)
    )
    scores, drawn = demo_readouts.attentive_motion(*data(sources, last), seed=0)
    assert scores['top1'] == 1.0 and len(list(drawn)) == demo_readouts.PICTURED


def test_wide_features_are_projected_and_still_hold_the_class(sources, monkeypatch):
    monkeypatch.setattr(demo_readouts, 'WIDTH', 24)
    fixed_DD = np.random.default_rng(0).normal(size=(8, 96)) * np.geomspace(1, 1e4, 96)

    def tell(example):
        return np.broadcast_to(np.eye(8)[example['label']] @ fixed_DD, (6, GRID, GRID, 96))

    counted = []
    train = demo_readouts.Data.of(Told(sources[0], tell), sources[0], done=counted.append)
    held_out = demo_readouts.Data.of(Told(sources[1], tell), sources[1], like=train)
    assert train.features_NThwD.shape == (96, 6, GRID, GRID, 24) and sum(counted) == 96
    assert demo_readouts.motion(train, held_out)[0]['top1'] == 1.0


def test_the_random_view_depends_on_the_width_alone():
    features = np.random.default_rng(0).normal(size=(2, 3, 64, 200))
    view = demo_readouts.random_view(features)
    assert (
        view.shape == (200, demo_readouts.WIDTH)
        and demo_readouts.random_view(features[..., : demo_readouts.WIDTH]) is None
    )
    large = demo_readouts.random_view(1000 * features + 5)
    np.testing.assert_allclose(1000 * large, view, rtol=1e-3)
    np.testing.assert_allclose(view.T @ view, np.eye(demo_readouts.WIDTH) * (view**2).sum(0).mean(), atol=0.05)


def test_the_camera_is_read_from_features_that_hold_it(sources):
    told = demo_readouts.camera(*data(sources, everywhere(lambda e: e['corners_42'].ravel())))[0]
    still = demo_readouts.camera(*data(sources, nothing))[0]
    assert told['share_of_motion'] < 0.05 and 0.8 < still['share_of_motion'] < 1.3
    assert told['corner_error'] < 0.1 * still['corner_error']


def moves(example):
    """At every patch, where whatever object is seen there in frame 0 goes."""
    moves_QT2 = example['tracks_QT2'] - example['tracks_QT2'][:, :1]
    patch = SIZE // GRID
    labels_hw = example['masks_THW'][0, patch // 2 :: patch, patch // 2 :: patch]
    found_hwT2 = np.zeros((GRID, GRID, 6, 2))
    for label in np.unique(example['objects_Q']):
        found_hwT2[labels_hw == label] = moves_QT2[example['objects_Q'] == label].mean(0)
    return found_hwT2.transpose(2, 0, 1, 3)


def box_moves(example):
    """At every patch, where a box that it is in goes."""
    centers = (np.arange(GRID) + 0.5) / GRID
    found_hwT4 = np.zeros((GRID, GRID, 6, 4))
    for box_T4 in example['boxes_QT4']:
        x0, y0, x1, y1 = box_T4[0]
        inside_hw = ((centers > y0) & (centers < y1))[:, None] & ((centers > x0) & (centers < x1))
        found_hwT4[inside_hw] = box_T4 - box_T4[0]
    return found_hwT4.transpose(2, 0, 1, 3)


def test_points_follow_features_that_hold_their_motion(sources):
    told, still = (demo_readouts.points(*data(sources, tell))[0] for tell in (moves, nothing))
    assert told['average_pts_within_thresh'] > still['average_pts_within_thresh'] + 0.2
    assert told['average_jaccard'] > still['average_jaccard'] + 0.1
    assert told['share_of_motion'] < 0.5 < 0.85 < still['share_of_motion'] < 1.2


def test_boxes_follow_features_that_hold_their_motion(sources):
    told, still = (demo_readouts.boxes(*data(sources, tell))[0] for tell in (box_moves, nothing))
    assert told['mean_iou'] > still['mean_iou'] + 0.05
    assert told['share_of_motion'] < 0.8 * still['share_of_motion']


def test_depth_is_read_from_features_that_hold_it(sources):
    patch = SIZE // GRID

    def tell(example):
        return (
            example['depth_THW']
            .reshape(6, GRID, patch, GRID, patch)
            .transpose(0, 1, 3, 2, 4)
            .reshape(6, GRID, GRID, -1)
        )

    told, unknown = demo_readouts.depth(*data(sources, tell))[0], demo_readouts.depth(*data(sources, nothing))[0]
    assert told['abs_rel'] < 0.1 < unknown['abs_rel'] and told['in_order'] > 0.95 > unknown['in_order']


def test_the_noise_square_is_found_if_features_show_it():
    sources = [NoiseSquares(count, seed, 8, SIZE) for count, seed in ((24, 0), (8, 1))]
    patch = SIZE // GRID

    def tell(example):
        return example['masks_THW'].reshape(8, GRID, patch, GRID, patch).mean((2, 4))[..., None]

    told = demo_readouts.noise_square(*data(sources, tell))
    assert told[0]['miou'] > 0.8 and all(picture.ndim == 3 for picture in told[1])
    random = [types.SimpleNamespace(**vars(one)) for one in data(sources, tell)]
    for one in random:
        one.features_NThwD = np.random.default_rng(0).normal(size=one.features_NThwD.shape)
    assert demo_readouts.noise_square(*random)[0]['miou'] < 0.5


def test_features_between_patches_are_those_between(sources):
    ramp_NThwD = np.tile(np.arange(GRID, dtype=float)[:, None], (1, 2, GRID, 1, 1))
    points = np.array([[[0.5, 0.5], [1 / 16, 0.1], [15 / 16, 0.1]]])
    found = demo_readouts._at_points(ramp_NThwD, points)
    np.testing.assert_allclose(found[0, :, 0], [3.5, 0, 7], atol=1e-6)

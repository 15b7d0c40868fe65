import dataclasses
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.probing import label_maps, label_propagation

GOLDEN = pathlib.Path(__file__).parents[1] / 'goldens' / 'metrics.npz'
SETTINGS = {'top_k': 5, 'temperature': 0.7, 'num_context': 3, 'radius': 2}


def normalized(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def analytic_video():
    """Six frames of 5 x 6 cells of width 8 from a formula, near enough to the first one that its copies are tied."""
    shape = 6, 5, 6, 8
    u = 43758.5453 * np.sin(12.9898 * np.arange(1, np.prod(shape) + 1) + 1)
    waves = (u - np.floor(u) - 0.5).reshape(shape)
    return normalized((waves[0] + 0.6 * waves).astype(np.float32))


def two_rectangles():
    mask = np.zeros((80, 96), np.uint8)
    mask[16:48, 16:64], mask[40:72, 56:88] = 1, 2
    return mask


def random_video(shape, seed=0, levels=None):
    """Normalized features; with levels, of few distinct affinities, so that many are equal, also after rounding."""
    rng = np.random.default_rng(seed)
    if levels is None:
        return normalized(rng.normal(size=shape)).astype(np.float32)
    return rng.integers(0, levels, shape).astype(np.float32) / 4


def random_labels(shape, seed=1):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def affinities(frame_hwD, context_ChwD, temperature, radius):
    """(cells, context cells) as the protocol writes them."""
    height, width, _ = frame_hwD.shape
    rows, columns = (part.ravel() for part in np.mgrid[:height, :width])
    far = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2 >= radius**2
    found = np.einsum('qd,ckd->qck', frame_hwD.reshape(-1, frame_hwD.shape[-1]), context_ChwD.reshape(
        len(context_ChwD), height * width, -1)) / np.float32(temperature)  # fmt: skip
    found[:, 1:] += np.where(far, -1e10, 0)[:, None]
    return found.reshape(height * width, -1)


def vote(affinity, labels):
    weights = np.exp(affinity - affinity.max())
    return (weights / weights.sum()) @ labels


def plain(features_ThwD, labels_hwK, *, top_k, temperature, num_context, radius):
    """The protocol word by word: everything at once, stable sort."""
    queue, predictions = [(features_ThwD[0], labels_hwK)] * num_context, []
    for frame_hwD in features_ThwD:
        context_ChwD, context_ChwK = map(np.stack, zip((features_ThwD[0], labels_hwK), *queue, strict=True))
        found = affinities(frame_hwD, context_ChwD, temperature, radius)
        best = np.argsort(-found, axis=1, kind='stable')[:, :top_k]
        flat = context_ChwK.reshape(-1, labels_hwK.shape[-1])
        cells = [vote(row[chosen], flat[chosen]) for row, chosen in zip(found, best, strict=True)]
        predictions.append(np.array(cells).reshape(labels_hwK.shape))
        queue = [*queue[1:], (frame_hwD, predictions[-1])]
    return np.stack(predictions)


@pytest.mark.parametrize(
    ('shape', 'settings'),
    [
        ((5, 3, 12, 4), {}),  # three stripes, the last of two columns
        ((7, 4, 4, 4), {'radius': 3.5, 'num_context': 2}),  # the ring goes round
        ((4, 2, 3, 4), {'top_k': 7, 'num_context': 1, 'radius': 1}),  # fewer cells in reach than wanted
        ((4, 3, 6, 4), {'radius': 1, 'top_k': 1, 'temperature': 0.1}),  # stripes reach only themselves
    ],
)
@pytest.mark.parametrize('levels', [None, 3])
def test_propagation_is_the_protocol_word_by_word(shape, settings, levels):
    features, labels, settings = (
        random_video(shape, levels=levels),
        random_labels((*shape[1:3], 3)),
        SETTINGS | settings,
    )
    expected = plain(features, labels, **settings)
    np.testing.assert_allclose(label_propagation.propagate(features, labels, **settings), expected, atol=2e-6)


def test_propagation_equals_recorded_numbers():
    labels, values = label_maps.mask_to_labels(two_rectangles(), (80, 96), (5, 6))
    features = analytic_video()
    predicted = label_propagation.propagate(features, labels, **SETTINGS)
    sums = [
        (20.4934, 5.6575, 3.8491), (20.4119, 5.5672, 4.0209), (20.5409, 5.7305, 3.7285), (20.2244, 5.8404, 3.9353),
        (20.5679, 5.4065, 4.0257), (20.5647, 5.2681, 4.1672),
    ]  # fmt: skip
    np.testing.assert_allclose(predicted.sum(axis=(1, 2)), sums, atol=1e-4)
    cells = [(0.08037, 0.62944, 0.29019), (0.09685, 0.60473, 0.29842), (0.01675, 0.81855, 0.16470)]
    np.testing.assert_allclose(predicted[:3, 2, 3], cells, atol=1e-5)
    for frame, counts in ((0, (5031, 1142, 577)), (5, (5553, 972, 225))):
        mask = label_maps.labels_to_mask(predicted[frame], values, (80, 96), (75, 90))
        np.testing.assert_allclose(np.bincount(mask.ravel()), counts, atol=2)  # of pixels between labels
    free = label_propagation.propagate(features, labels, **SETTINGS, restrict=False)
    np.testing.assert_allclose(free[5].sum(axis=(0, 1)), (21.0335, 5.0093, 3.9572), atol=1e-4)


def test_propagation_equals_the_official_numbers_up_to_ties():
    """Given the official labels of the frames before, every cell is one of the choices that equal affinities leave.

    The official numbers come from PyTorch, whose choice between equal affinities is not defined. There are some as long
    as the queue holds copies of frame 0; after that both agree on all cells.
    """
    with np.load(GOLDEN, allow_pickle=False) as file:
        features, labels, official = file['lp_features'], file['lp_labels'], file['lp_out']
        top_k, num_context, radius = (int(file[f'lp_{name}']) for name in ('topk', 'context', 'radius'))
        temperature = float(file['lp_temperature'])
    context = label_propagation.start(features[0], labels, num_context)
    queue = [(features[0], labels)] * num_context
    for frame, expected in zip(features, official, strict=True):
        context, ours = label_propagation.step(
            context, frame, top_k=top_k, temperature=temperature, radius=radius, restrict=True
        )
        context_ChwD, context_ChwK = map(np.stack, zip((features[0], labels), *queue, strict=True))
        found = affinities(frame, context_ChwD, temperature, radius)
        cells = zip(found, np.reshape(ours, (-1, 3)), expected.reshape(-1, 3), strict=True)
        choices = [_same_choices(row, context_ChwK.reshape(-1, 3), top_k, *pair) for row, *pair in cells]
        queue = [*queue[1:], (frame, expected)]
        assert max(choices) == 1 or np.array_equal(context_ChwD[1], features[0])
        slot = 1 + (int(context.seen) - 1) % num_context
        context = dataclasses.replace(context, labels_ChwK=context.labels_ChwK.at[slot].set(jnp.asarray(expected)))


def _same_choices(affinity, labels, top_k, ours, official):
    """How many choices there are between equal affinities; checks that both are one of them."""
    order = np.argsort(-affinity, kind='stable')
    last = affinity[order[top_k - 1]]
    sure = [index for index in order[:top_k] if affinity[index] > last + 1e-5]
    tied = np.nonzero(abs(affinity - last) <= 1e-5)[0]
    choices = [np.array([*sure, *some]) for some in itertools.combinations(tied, top_k - len(sure))]
    votes = np.array([vote(affinity[choice], labels[choice]) for choice in choices])
    for cell in (ours, official):
        assert abs(votes - cell).max(axis=1).min() < 1e-6
    return len(choices)


def test_a_static_video_keeps_its_labels():
    features = np.repeat(random_video((1, 6, 8, 16)), 5, axis=0)
    labels = np.zeros((6, 8, 2), np.float32)
    labels[..., 0], labels[2:4, 3:6] = 1, [0, 1]
    predicted = label_propagation.propagate(features, labels, top_k=4, temperature=0.7, num_context=3, radius=20)
    np.testing.assert_allclose(predicted, np.repeat(labels[None], 5, axis=0), atol=1e-6)


def test_labels_follow_what_moves():
    cells = random_video((1, 4, 5, 32))[0]
    features = np.stack([np.roll(cells, shift, axis=1) for shift in range(6)])
    labels = random_labels((4, 5, 3))
    predicted = label_propagation.propagate(features, labels, top_k=1, temperature=0.7, num_context=2, radius=20)
    np.testing.assert_allclose(predicted, np.stack([np.roll(labels, shift, axis=1) for shift in range(6)]), atol=1e-6)


def test_the_radius_holds_for_the_queue_and_not_for_frame_0():
    features, labels = np.zeros((3, 1, 5, 3), np.float32), np.zeros((1, 5, 2), np.float32)
    features[..., 2], labels[0, 0, 0] = 1, 1
    features[0, 0, 0] = features[2, 0, 4] = [1, 0, 0]  # a thing at the left end turns up at the right end
    features[1, 0, 1] = features[2, 0, 3] = [0, 1, 0]  # another appears, and moves by two
    for radius, restrict, moved in ((2, True, 0), (2.1, True, 1), (2, False, 1)):
        context = label_propagation.start(features[0], labels, 1)
        settings = {'top_k': 1, 'temperature': 0.7, 'radius': radius, 'restrict': restrict}
        context, _ = label_propagation.step(context, features[1], **settings)
        labels_ChwK = context.labels_ChwK.at[1].set(0).at[1, 0, 1, 1].set(1)
        _, found = label_propagation.step(
            dataclasses.replace(context, labels_ChwK=labels_ChwK), features[2], **settings
        )
        assert found[0, 4, 0] == 1 and found[0, 3, 1] == moved


def test_a_later_frame_cannot_change_the_past():
    features, labels = random_video((6, 4, 4, 8)), random_labels((4, 4, 2))
    whole = label_propagation.propagate(features, labels, **SETTINGS)
    assert np.array_equal(label_propagation.propagate(features[:3], labels, **SETTINGS), whole[:3])


def test_frames_are_taken_one_at_a_time():
    taken = []

    def frames():
        for number, features in enumerate(random_video((4, 4, 4, 8))):
            taken.append(number)
            yield features

    stream = label_propagation.stream(frames(), random_labels((4, 4, 2)), **SETTINGS)
    for number in range(4):
        assert next(stream).shape == (4, 4, 2)
        assert taken == list(range(number + 1))


def test_arrays_of_the_caller_stay_as_they_were():
    features, labels = jnp.asarray(random_video((3, 4, 4, 8))), jnp.asarray(random_labels((4, 4, 2)))
    on_device = label_propagation.propagate(features, labels, **SETTINGS)
    again = label_propagation.propagate(np.asarray(features), np.asarray(labels), **SETTINGS)
    assert np.array_equal(on_device, again)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match='0 context frames'):
        label_propagation.start(np.zeros((2, 3, 4)), np.zeros((2, 3, 2)), 0)
    with pytest.raises(ValueError, match=r'labels \(3, 2, 2\)'):
        label_propagation.start(np.zeros((2, 3, 4)), np.zeros((3, 2, 2)), 1)

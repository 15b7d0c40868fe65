import pickle

import numpy as np
import pytest

from rvm_jax.data.mixture import Mixture, Part, part_of_sample, whole_weights

TABLE_4 = (0.056, 0.188, 0.318, 0.188, 0.250)


def mixture(sizes=(7, 5, 11), weights=(0.5, 0.3, 0.2), fps=(25, 10, 10)):
    sources = [[f'{number}-{i}' for i in range(size)] for number, size in enumerate(sizes)]
    return Mixture(Part(*part) for part in zip(sources, fps, weights, strict=True))


def test_draws_follow_the_weights_exactly_and_never_stray():
    weights = whole_weights(TABLE_4)
    assert weights == [28, 94, 159, 94, 125]
    drawn = np.zeros((2001, 5))
    for sample in range(2000):
        part, turn = part_of_sample(sample, weights)
        assert turn == drawn[sample, part]  # a part's own samples are numbered without a gap
        drawn[sample + 1] = drawn[sample] + (np.arange(5) == part)
    shares = np.arange(2001)[:, None] * np.array(TABLE_4)
    np.testing.assert_allclose(drawn[[500, 1000, 2000]], shares[[500, 1000, 2000]])
    assert np.abs(drawn - shares).max() < 2


def test_a_sample_far_out_is_found_at_once():
    weights, far = whole_weights(TABLE_4), 500 * 10**12
    assert [part_of_sample(far + i, weights)[0] for i in range(500)] == [
        part_of_sample(i, weights)[0] for i in range(500)
    ]
    part, turn = part_of_sample(far, weights)
    assert turn == far // 500 * weights[part]


def test_an_exhausted_part_starts_its_next_epoch_in_a_new_order():
    mixed = mixture()
    order = mixed.order(seed=3)
    records = np.array([order(sample) for sample in range(1000)])
    for first, size in ((0, 7), (7, 5), (12, 11)):
        mine = records[(records >= first) & (records < first + size)]
        epochs = mine[: len(mine) // size * size].reshape(-1, size)
        assert len(epochs) >= 15
        assert (np.sort(epochs, 1) == first + np.arange(size)).all()
        assert len({tuple(epoch) for epoch in epochs}) > 10


def test_order_depends_on_the_seed_and_survives_pickling():
    order, other = mixture().order(seed=1), mixture().order(seed=2)
    drawn = [order(sample) for sample in range(50)]
    assert [pickle.loads(pickle.dumps(order))(sample) for sample in range(50)] == drawn
    assert [other(sample) for sample in range(50)] != drawn


def test_records_know_their_part():
    mixed = mixture()
    assert len(mixed) == 23
    assert [mixed[record] for record in (0, 6, 7, 11, 12, 22)] == ['0-0', '0-6', '1-0', '1-4', '2-0', '2-10']
    assert [mixed.fps(record) for record in (6, 7, 22)] == [25, 10, 10]
    assert mixed.neighbors(11) == range(7, 12)


@pytest.mark.parametrize('weights', [(1, 3), (0.25, 0.75), (0.1, 0.3), (1e-3, 3e-3)])
def test_weights_count_relative_to_each_other(weights):
    assert whole_weights(weights) == [1, 3]

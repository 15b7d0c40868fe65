import numpy as np

from rvm_jax.probing.stratified import held_out

NAMES = [f'{number}.mp4' for number in range(23)]
LABELS = ['a'] * 10 + ['b'] * 10 + ['c'] * 2 + ['d']


def test_each_class_gives_its_share_but_never_all_of_it():
    held_N = held_out(NAMES, LABELS, 0.2)
    counts = {label: int(held_N[np.array(LABELS) == label].sum()) for label in 'abcd'}
    assert counts == {'a': 2, 'b': 2, 'c': 1, 'd': 0}
    assert held_out(NAMES, LABELS, 0.999).sum() == 9 + 9 + 1


def test_the_order_of_the_examples_makes_no_difference():
    chosen = set(np.array(NAMES)[held_out(NAMES, LABELS, 0.2)])
    assert set(np.array(NAMES[::-1])[held_out(NAMES[::-1], LABELS[::-1], 0.2)]) == chosen


def test_another_example_moves_at_most_one_of_its_class():
    before, after = held_out(NAMES[:10], 'a' * 10, 0.3), held_out(NAMES[:11], 'a' * 11, 0.3)
    assert (before != after[:10]).sum() <= 1


def test_the_choice_is_the_same_on_every_machine():
    assert np.flatnonzero(held_out(NAMES, LABELS, 0.2)).tolist() == [7, 8, 16, 19, 21]

import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing import tables


def test_each_task_counts_relative_to_the_best_model():
    values = {'a': {'top1': 60.0, 'abs_rel': 0.10}, 'b': {'top1': 30.0, 'abs_rel': 0.08}}
    averages = tables.normalized_average(values, {'top1': True, 'abs_rel': False})
    assert averages == pytest.approx({'a': (100 + 80) / 2, 'b': (50 + 100) / 2})


def test_no_error_at_all_is_the_best():
    averages = tables.normalized_average({'a': {'x': 0.0}, 'b': {'x': 1.0}}, {'x': False})
    assert averages == {'a': 100, 'b': 0}


@pytest.mark.parametrize('found', [{}, {'x': float('nan')}])
def test_a_model_without_a_value_is_named(found):
    with pytest.raises(UserError, match='b: does not have a value for x'):
        tables.normalized_average({'a': {'x': 1.0}, 'b': found}, {'x': True})

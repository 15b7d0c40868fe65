import pytest

from rvm_jax.values import in_type_of, parse_value


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('true', True), ('False', False), (' none ', None), ('10_000', 10000), ('1e-3', 1e-3), ('(0.3, 1)', (0.3, 1)),
        ('[1, 2]', (1, 2)), ('word', 'word'), ('a/b.py', 'a/b.py'), ('', ''), ('1 +', '1 +'), ('{[]: 1}', '{[]: 1}'),
        ('(' * 999, '(' * 999),
    ],
)  # fmt: skip
def test_what_a_text_stands_for(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(('default', 'value', 'fits'), [(3, 1e4, 10000), (3, 1.5, 1.5), (0.5, 3, 3.0), (True, 1, 1)])
def test_a_number_takes_the_type_of_its_default(default, value, fits):
    found = in_type_of(default, value)
    assert found == fits and type(found) is type(fits)

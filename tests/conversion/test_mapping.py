from rvm_jax.conversion import mapping

TABLE = (('layers_#/norm/*', 'blocks/#/scale_*'), ('layers_#/*', 'blocks/#/*'), ('token', 'cls'))


def test_names_are_translated_by_the_first_rule_that_fits():
    renamed, unknown = mapping.translate({'layers_12/norm/a': 1, 'layers_3/b/c': 2, 'token': 3, 'tokens': 4}, TABLE)
    assert renamed == {'blocks/12/scale_a': 1, 'blocks/3/b/c': 2, 'cls': 3} and unknown == ['tokens']


def test_a_table_read_from_right_to_left_gives_the_names_back():
    names = {'layers_12/norm/a': 1, 'layers_3/b/c': 2, 'token': 3}
    back, unknown = mapping.translate(mapping.translate(names, TABLE)[0], mapping.invert(TABLE))
    assert back == names and not unknown

import dataclasses

import numpy as np
import pytest

from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, param_names


def test_stacked_layers_are_named_one_by_one_and_restored():
    arch = dataclasses.replace(architecture.SIZES['tiny'], encoder_layers=12, core_layers=1, decoder_width=0)
    model = build.abstract(arch)
    shapes = param_names.named_shapes(model)
    assert shapes['encoder/layers/11/mlp/dense_in/kernel'] == (64, 256) and not any('blocks' in name for name in shapes)
    named = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}
    filled = param_names.from_named(model, named, 'here')
    stacked = filled.encoder.layers.blocks.mlp.dense_in.kernel[...]
    for i in (0, 2, 10, 11):
        assert (stacked[i] == named[f'encoder/layers/{i}/mlp/dense_in/kernel']).all()
    back = param_names.to_named(filled)
    assert back.keys() == named.keys() and all((back[name] == array).all() for name, array in named.items())


def test_a_long_list_of_misfits_shows_some_of_each_kind():
    expected = {f'gone_{i}': (1,) for i in range(30)} | {f'odd_{i}': (2,) for i in range(9)}
    found = {f'new_{i}': (1,) for i in range(7)} | {f'odd_{i}': (3,) for i in range(9)}
    with pytest.raises(UserError) as error:
        param_names.compare(expected, found, 'rvm.npz')
    message = str(error.value)
    for part in ('missing gone_0 (1,)', 'and 24 more', 'unexpected new_5', 'and 1 more', 'odd_0 is (3,)', 'and 3 more'):
        assert part in message


def test_names_and_shapes_that_agree_pass():
    param_names.compare({'a': (1, 2)}, {'a': [1, 2]}, 'rvm.npz')

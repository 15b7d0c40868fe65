import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build, layers, param_names


def parameters(arch):
    return sum(math.prod(shape) for shape in param_names.named_shapes(build.abstract(arch)).values())


def names(**switches):
    arch = dataclasses.replace(
        architecture.SIZES['tiny'], encoder_layers=1, core_layers=1, decoder_layers=1, **switches
    )
    return set(param_names.named_shapes(build.abstract(arch)))


@pytest.mark.parametrize(
    ('size', 'with_decoder', 'without'),
    [
        ('s', 67_480_448, 33_222_272),
        ('b', 160_270_848, 125_816_064),
        ('l', 409_069_824, 374_483_968),
        ('h', 776_895_488, 742_178_560),
    ],
)
def test_sizes_have_exactly_the_released_parameters(size, with_decoder, without):
    assert parameters(architecture.SIZES[size]) == with_decoder
    assert parameters(dataclasses.replace(architecture.SIZES[size], decoder_width=0)) == without


def test_the_core_of_s_may_be_four_times_its_width():
    config = configs.default()
    config.model.core_mlp = 1536
    assert parameters(architecture.from_config(config)) == 65_905_536


def test_switches_add_and_remove_their_own_parameters_alone():
    released = names()
    assert names(gate_bias=True) - released == {
        f'core/{gate}/bias' for gate in ('input_update', 'input_reset', 'state_update', 'state_reset')
    }
    assert released - names(state_norm=False) == {'core/state_norm/scale'}
    assert released - names(delta_embedding=False) == {'decoder/delta_embedder/kernel', 'decoder/delta_embedder/bias'}
    for switch in ({'block_order': 'self_mlp_cross'}, {'gelu': 'erf'}, {'position_resize': 'torch'}):
        assert names(**switch) == released


@pytest.mark.parametrize('switch', [{'gate_bias': True}, {'state_norm': False}, {'position_resize': 'torch'}])
def test_switches_change_the_features(make_model, model, clips, switch):
    features, _ = model.encode(clips.source)
    changed, _ = make_model(**switch).encode(clips.source)
    assert jnp.abs(changed - features).max() > 0.01


def test_a_config_becomes_an_architecture_and_an_execution():
    config = configs.default()
    config.model.size = 'tiny'
    config.model.gate_bias = config.model.shared_mask = True
    config.model.unroll = 'true'
    config.model.mask_ratio = 0.5
    config.model.precision, config.model.softmax_dtype = 'official_mixed', 'input'
    config.model.remat, config.model.attention = 'full', 'xla'
    config.data.image_size, config.data.delta_from = 48, 'last'
    arch, execution = architecture.from_config(config), build.execution(config.model)
    expected = dataclasses.replace(
        architecture.SIZES['tiny'], gate_bias=True, shared_mask=True, mask_ratio=0.5, image_size=48, delta_from='last',
        fps=10.0, max_gap=48,
    )  # fmt: skip
    assert arch == expected
    assert (execution.implementation, execution.remat, execution.unroll) == ('xla', 'full', True)
    assert execution.precision == dataclasses.replace(layers.PRECISIONS['official_mixed'], weights='input')


def test_frames_that_are_not_made_of_whole_patches_are_refused():
    config = configs.default()
    config.data.image_size = 250
    with pytest.raises(UserError, match=r'config.data.image_size=250: is not a multiple of the patch.*take 240'):
        architecture.from_config(config)


def test_fresh_parameters_are_drawn_as_released():
    arch = dataclasses.replace(architecture.SIZES['tiny'], encoder_layers=1, core_layers=1, decoder_layers=1)
    params = {name: jnp.std(x) for name, x in param_names.to_named(jax.jit(
        lambda: build.build(arch, rngs=nnx.Rngs(0)))()).items()}  # fmt: skip
    lecun, xavier = 64**-0.5, (2 / (64 + 256)) ** 0.5
    for name, std in {
        'encoder/cls_token': 0.02, 'decoder/mask_token': 0.02, 'encoder/patch_embed/kernel': 192**-0.5,
        'encoder/layers/0/attention/query/kernel': lecun, 'encoder/layers/0/attention/out/kernel': lecun,
        'encoder/layers/0/mlp/dense_in/kernel': xavier, 'core/layers/0/mlp/dense_out/kernel': xavier,
        'core/input_update/kernel': lecun, 'decoder/embedder/kernel': lecun, 'decoder/delta_embedder/kernel': 64**-0.5,
    }.items():  # fmt: skip
        assert params[name] == pytest.approx(std, rel=0.3 if 'token' in name else 0.05), name
    assert all(std == 0 for name, std in params.items() if name.endswith(('bias', 'scale')))


def test_a_seed_decides_the_parameters_and_layers_differ():
    arch = dataclasses.replace(architecture.SIZES['tiny'], encoder_layers=2, core_layers=1, decoder_width=0)
    make = jax.jit(lambda key: nnx.state(build.build(arch, rngs=nnx.Rngs(params=key))))
    first, again, other = (make(jax.random.key(seed)) for seed in (0, 0, 1))
    for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(left, right)
    kernel = first['encoder']['layers']['blocks']['mlp']['dense_in']['kernel'].get_value()
    assert (kernel[0] != kernel[1]).any()
    assert (kernel != other['encoder']['layers']['blocks']['mlp']['dense_in']['kernel'].get_value()).any()

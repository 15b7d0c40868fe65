import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from rvm_jax import config as configs
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build
from rvm_jax.models.param_names import path_name
from rvm_jax.training import sharding
from rvm_jax.training.optimizer import make_optimizer


def make_mesh(data, fsdp, devices=None):
    settings = configs.default().mesh
    settings.update(data=data, fsdp=fsdp)
    return sharding.make_mesh(settings, devices)


@pytest.fixture(scope='module')
def params():
    arch = build.dataclasses.replace(architecture.SIZES['tiny'], gate_bias=True)
    return nnx.to_pure_dict(nnx.state(build.abstract(arch)))


def named_specs(mesh, tree):
    shardings = jax.tree.leaves_with_path(sharding.state_shardings(mesh, tree))
    return {path_name(path): leaf.spec for path, leaf in shardings}


@pytest.mark.parametrize(
    ('data', 'fsdp', 'shape'),
    [(-1, 1, (8, 1)), (2, -1, (2, 4)), (-1, 8, (1, 8)), (4, 2, (4, 2)), (-1, 2, (4, 2)), (-1, 16, (1, 8))],
)
def test_an_axis_of_minus_one_takes_the_devices_that_are_left(data, fsdp, shape):
    mesh = make_mesh(data, fsdp)
    assert mesh.axis_names == ('data', 'fsdp') and mesh.devices.shape == shape


@pytest.mark.parametrize(('data', 'fsdp'), [(3, 1), (-1, 3), (-1, 12), (8, 2), (4, 1), (1, 16)])
def test_a_mesh_that_does_not_use_all_devices_is_refused(data, fsdp):
    with pytest.raises(
        UserError, match=r'data x fsdp must be 8, the number of devices; set config\.mesh\.(data=-1|fsdp=[28])'
    ):
        make_mesh(data, fsdp)


def test_every_parameter_is_covered(params):
    mamba = build.dataclasses.replace(architecture.SIZES['tiny'], core='mamba', feature_head=True)
    used = set()
    for tree in (params, nnx.to_pure_dict(nnx.state(build.abstract(mamba)))):
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = path_name(path)
            fitting = [rule for rule, _ in sharding.PARTITIONS if re.search(rule, name)]
            assert len(fitting) <= (1 if name.endswith('kernel') else 0), name
            if not fitting:  # what is replicated is small
                assert leaf.size <= 64 * 4 * 64, name
            used.update(fitting)
    assert used == {rule for rule, _ in sharding.PARTITIONS}


def test_every_kernel_is_split_on_one_axis_but_not_by_layer(params):
    for name, spec in named_specs(make_mesh(2, 4), params).items():
        assert [axis for axis in spec if axis] == (['fsdp'] if name.endswith('kernel') else []), name
        if 'blocks' in name and spec:
            assert spec[0] is None, name


def test_moments_are_split_like_their_parameters(params):
    mesh, optimizer = make_mesh(2, 4), make_optimizer(configs.default().optim, 10)
    moments = jax.eval_shape(optimizer.init, params)
    for tree in (moments.inner_state[1][0].mu, moments.inner_state[1][0].nu):
        assert named_specs(mesh, tree) == named_specs(mesh, params)
    counters = [spec for name, spec in named_specs(mesh, moments).items() if '/' not in name]
    assert counters and set(counters) == {PartitionSpec()}


@pytest.mark.parametrize('size', ['s', 'b', 'l', 'h'])
def test_the_released_sizes_can_be_split_sixteen_ways(size):
    params = nnx.to_pure_dict(nnx.state(build.abstract(architecture.SIZES[size])))
    mesh = jax.sharding.AbstractMesh((16, 16), ('data', 'fsdp'))
    assert named_specs(mesh, params)['encoder/layers/blocks/mlp/dense_in/kernel'] == PartitionSpec(None, 'fsdp', None)


def test_a_split_that_does_not_divide_a_parameter_is_named(params):
    with pytest.raises(UserError, match=r'config.mesh.fsdp=3: cannot split .*; take a smaller power of two'):
        sharding.state_shardings(make_mesh(1, 3, jax.devices()[:3]), params)


def test_a_batch_must_divide_over_all_devices():
    sharding.check_batch(make_mesh(2, 4).devices.size, 16)
    with pytest.raises(
        UserError, match=r'config\.batch_size=12: cannot be split evenly over 8 devices; take a multiple of 8'
    ):
        sharding.check_batch(make_mesh(2, 4).devices.size, 12)


def test_only_what_the_model_needs_of_a_batch_goes_to_devices():
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 255, (8, 2), np.uint8) for name in sharding.DEVICE_ARRAYS} | {'step': 3}
    placed = sharding.place_batch(make_mesh(2, 4), batch)
    assert set(placed) == set(sharding.DEVICE_ARRAYS)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name], strict=True)
        assert len(array.addressable_shards) == 8 and {s.data.shape for s in array.addressable_shards} == {(1, 2)}


class Chip:
    """Stands for a device of one of several slices."""

    platform, device_kind, process_index = 'gpu', 'any', 0

    def __init__(self, number, slice_index):
        self.id, self.slice_index = number, slice_index


def test_weights_are_never_split_across_slices():
    chips = [Chip(number, number // 4) for number in range(8)]
    mesh = make_mesh(-1, 16, chips)
    assert mesh.devices.shape == (2, 4)
    assert all(len({chip.slice_index for chip in row}) == 1 for row in mesh.devices)
    with pytest.raises(UserError, match=r'across 2 slices or hosts; make config\.mesh\.data a multiple of 2'):
        make_mesh(1, 8, chips)

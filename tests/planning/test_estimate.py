import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, cost
from rvm_jax.planning import activations, chips, estimate, topology
from rvm_jax.training import hardware, sharding
from rvm_jax.training.state import make_programs

# Programs of the published sizes that `make check-accelerators` compiled for GPUs.
RECORD = pathlib.Path(__file__).parents[2] / 'benchmarks' / 'accelerators.json'
H100 = [
    case for case in json.loads(RECORD.read_text())
    if case['topology'].startswith('h100') and 'tiny' not in case['recipe'] and 'memory_gib' in case
]  # fmt: skip
CLIP = {'num_source': 4, 'num_target': 4, 'image_size': 256}


@dataclasses.dataclass(frozen=True)
class FakeGpu:
    """What a mesh over several hosts asks of a device."""

    id: int
    slice_index: int
    platform: str = 'gpu'
    device_kind: str = 'NVIDIA H100 80GB HBM3'

    @property
    def process_index(self):
        return self.slice_index


def planned(config):
    """What functions of a plan take first: a config and its Architecture."""
    return config, resolve(config)[0]


def recipe(size='s', *overrides):
    """Data parallel, unless overrides say otherwise."""
    return configs.load(f'configs/rvm_{size}.py', ['mesh.data=-1', 'mesh.fsdp=1', *overrides])


def frozen_recipe(size='l', *overrides):
    return configs.load(
        'configs/dinov3_rvmrnn.py', [f'model.size={size}', 'batch_size=256', 'mesh.data=-1', 'mesh.fsdp=1', *overrides]
    )


def test_flops_by_part_are_those_of_a_clip():
    for size in 'sh':
        flops = estimate.flops_by_part(*planned(recipe(size)))
        assert sum(flops.values()) == pytest.approx(cost.train_flops(architecture.SIZES[size], **CLIP))
    assert flops['encoder'] > flops['core'] > flops['decoder'] > 0


def test_flops_of_a_frozen_recipe_have_adapters_and_a_target():
    flops = estimate.flops_by_part(*planned(frozen_recipe()))
    assert list(flops) == ['encoder', 'adapters', 'core', 'target', 'decoder']
    assert sum(flops.values()) == pytest.approx(1.516e12, rel=1e-3)
    through = estimate.flops_by_part(*planned(frozen_recipe('l', 'model.target=mask_token', 'model.taps=last')))
    assert list(through) == ['encoder', 'core', 'decoder']
    assert through['encoder'] == pytest.approx(2 * flops['encoder'])  # as many targets as sources, whole


def test_one_device_holds_weights_gradients_and_two_moments():
    config = recipe('s', 'batch_size=16')
    ours, gradients = estimate.memory(*planned(config), 'tpu', 1), 4 * cost.num_parameters(architecture.SIZES['s'])
    assert ours['weights'] == ours['gradients'] == gradients
    assert ours['optimizer'] == pytest.approx(2 * gradients, abs=64)  # counters
    execution = estimate.execution_of(config, 'tpu')
    assert ours['activations'] == activations.of_batch(architecture.SIZES['s'], execution, 16, **CLIP)


@pytest.mark.parametrize(('data', 'fsdp'), [(-1, 1), (2, -1), (1, -1), (-1, 4), (-1, 16), (-1, 3), (3, -1), (1, 4)])
def test_a_mesh_has_the_sizes_that_training_gives_it(data, fsdp):
    config = recipe('s', f'mesh.data={data}', f'mesh.fsdp={fsdp}')
    try:
        sizes = tuple(sharding.make_mesh(config.mesh).shape.values())
    except UserError:
        with pytest.raises(UserError, match='data x fsdp must be 8'):
            estimate.mesh_sizes(config, 8)
    else:
        assert estimate.mesh_sizes(config, 8) == sizes


def test_fsdp_divides_the_state_and_every_device_the_clips():
    whole = estimate.memory(*planned(recipe('l')), 'tpu', 256)
    split = estimate.memory(*planned(recipe('l', 'mesh.fsdp=16')), 'tpu', 256)
    for part in ('weights', 'gradients', 'optimizer'):
        assert whole[part] / 16 < split[part] < whole[part] / 15  # norms and biases stay whole
    fewer = estimate.memory(*planned(recipe('l')), 'tpu', 128)
    assert split['activations'] == whole['activations'] == fewer['activations'] / 2


def test_zero_1_divides_the_optimizer_alone():
    whole = estimate.memory(*planned(recipe('l')), 'tpu', 16)
    split = estimate.memory(*planned(recipe('l', 'mesh.fsdp=16', 'mesh.sharded=optimizer')), 'tpu', 16)
    assert split['weights'] == whole['weights'] and split['gradients'] == whole['gradients']
    assert split['optimizer'] < whole['optimizer'] / 15


def test_what_is_frozen_has_no_gradient_and_no_optimizer_state():
    config = frozen_recipe('l', 'batch_size=16')
    counts, parts = cost.parameter_counts(resolve(config)[0]), estimate.memory(*planned(config), 'tpu', 1)
    assert parts['gradients'] == 4 * counts['trained'] == pytest.approx(parts['optimizer'] / 2)
    assert parts['weights'] - parts['gradients'] == pytest.approx(2 * counts['frozen'], rel=0.01)
    end_to_end = estimate.memory(*planned(recipe('l', 'batch_size=16')), 'tpu', 1)
    assert sum(parts.values()) < sum(end_to_end.values()) / 1.5


@pytest.mark.parametrize('mesh', [('data=2', 'fsdp=4'), ('data=8', 'fsdp=1'), ('fsdp=4', 'sharded=optimizer')])
def test_the_state_of_the_real_programs_takes_as_much(mesh):
    tiny = ('model.size=tiny', 'data.image_size=48', 'batch_size=8', 'mesh.data=-1', *(f'mesh.{axis}' for axis in mesh))
    config = configs.load('configs/dinov3_rvmrnn.py', tiny)
    programs = make_programs(*planned(config))
    assert programs.abstract_frozen['encoder']['patch_embed']['kernel'].dtype == jnp.bfloat16
    state = {name: programs.abstract_state[name] for name in ('params', 'statistics', 'opt_state')}
    leaves = jax.tree.leaves([state, programs.abstract_frozen])
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    ours = estimate.memory(*planned(config), 'gpu', 8)
    assert ours['weights'] + ours['optimizer'] == held


def test_plain_attention_and_what_no_kernel_takes_pay_for_scores():
    fused, plain, exact = (planned(recipe('s', 'batch_size=8', *more)) for more in (
        (), ['model.attention=xla'], ['model.precision=official_mixed']))  # fmt: skip
    for need in (estimate.traffic, lambda *args: estimate.memory(*args)['activations']):
        assert need(*plain, 'tpu', 1) > 1.2 * need(*fused, 'tpu', 1)
        assert need(*exact, 'tpu', 1) > need(*fused, 'tpu', 1)


# S: this step inlined, for v6e, by libtpu 0.0.42.1. L: an earlier prototype of the same arithmetic.
@pytest.mark.parametrize(('size', 'clips', 'gigabytes'), [('s', 4, 56.2), ('l', 4, 113)])
def test_traffic_is_near_what_the_tpu_compiler_counts(size, clips, gigabytes):
    config = recipe(size, f'batch_size={clips}', 'model.attention=xla', 'model.remat=none')
    assert estimate.traffic(*planned(config), 'tpu', 1) / 1e9 == pytest.approx(gigabytes, rel=0.2)


@pytest.mark.parametrize('case', H100, ids=lambda case: f'{case["recipe"]} {case["topology"]}')
def test_gpu_figures_are_within_15_percent_of_compiled_programs(case):
    devices = topology.parse(case['topology']).devices
    config = configs.load(case['recipe'], [f'batch_size={case["batch"]}'])
    memory = sum(estimate.memory(*planned(config), 'gpu', devices).values())
    traffic = estimate.traffic(*planned(config), 'gpu', devices) / (case['batch'] / devices)
    assert memory / 2**30 == pytest.approx(case['memory_gib'], rel=0.15)
    assert traffic / 1e9 == pytest.approx(case['traffic_gb_a_clip'], rel=0.15)


def test_data_parallel_training_sums_the_gradients_once():
    config, gradients = recipe('l'), 4 * cost.num_parameters(architecture.SIZES['l'])
    v6e, h100 = chips.CHIPS['v6e'], chips.CHIPS['h100']
    assert estimate.link_seconds(*planned(config), v6e, 1) == 0
    assert estimate.link_seconds(*planned(config), v6e, 256) == pytest.approx(2 * gradients * 255 / 256 / 400e9)
    in_host, across = 2 * gradients * 7 / 8 / 450e9, 2 * gradients / 8 * 3 / 4 / 50e9
    assert estimate.link_seconds(*planned(config), h100, 8) == pytest.approx(in_host)
    assert estimate.link_seconds(*planned(config), h100, 32) == pytest.approx(in_host + across)


def test_frozen_weights_are_gathered_and_never_summed():
    v6e, counts = chips.CHIPS['v6e'], cost.parameter_counts(resolve(frozen_recipe())[0])
    summed = 2 * 4 * counts['trained'] * 255 / 256 / 400e9
    assert estimate.link_seconds(*planned(frozen_recipe()), v6e, 256) == pytest.approx(summed)
    light, visible = (
        estimate.link_seconds(*planned(frozen_recipe('l', 'mesh.fsdp=16', 'model.taps=last', target)), v6e, 16)
        for target in ('model.target=light_target', 'model.target=frozen_visible')
    )
    target = cost.parameters(resolve(frozen_recipe())[0])['target']
    added = 2 * counts['frozen'] - 8 * cost.count(target)
    assert visible - light == pytest.approx(added * 15 / 16 / 400e9, rel=0.05)


def test_weights_on_gpus_are_split_within_a_host():
    h100, wide, near = chips.CHIPS['h100'], recipe('l', 'mesh.fsdp=16'), recipe('l', 'mesh.fsdp=8')
    devices = [FakeGpu(i, slice_index=i // 8) for i in range(32)]
    sizes = estimate.mesh_sizes(wide, 32, chips.slices(h100, 32))
    assert sizes == tuple(sharding.make_mesh(wide.mesh, devices).shape.values()) == (4, 8)
    assert estimate.memory(*planned(wide), 'gpu', 32, 4) == estimate.memory(*planned(near), 'gpu', 32)
    in_host, gradients = (
        estimate.link_seconds(*planned(near), h100, 8),
        4 * cost.num_parameters(architecture.SIZES['l']),
    )
    across = 2 * gradients / 8 * 3 / 4 / 50e9  # each card sums its part of the gradients over the hosts
    for config in (wide, near):
        assert estimate.link_seconds(*planned(config), h100, 32) == pytest.approx(in_host + across)


def test_a_host_of_gpus_is_a_slice_and_so_are_all_chips_of_tpus():
    h100 = chips.CHIPS['h100']
    assert [chips.slices(h100, devices) for devices in (1, 4, 8, 16, 64)] == [1, 1, 1, 2, 8]
    assert chips.slices(chips.CHIPS['v6e'], 256) == chips.slices(None, 256) == 1


def test_split_weights_travel_as_often_as_the_program_says():
    config = recipe('s', 'mesh.fsdp=4', 'batch_size=64')
    assert estimate.link_seconds(*planned(config), chips.CHIPS['v6e'], 4) == pytest.approx(1.94e-3, rel=0.1)  # v6e:2x2


@pytest.mark.parametrize(
    ('overrides', 'devices', 'reason'),
    [
        (['mesh.data=3'], 16, 'config.mesh.data=3, fsdp=1: data x fsdp must be 16'),
        (['mesh.fsdp=3'], 16, 'data x fsdp must be 16, the number of devices; set config.mesh.fsdp=2'),
        (['mesh.fsdp=24'], 16, 'data x fsdp must be 16'),
        (['batch_size=24'], 16, 'config.batch_size=24: cannot be split evenly over 16 devices; take a multiple of 16'),
        (['mesh.fsdp=256'], 256, 'config.mesh.fsdp=256: cannot split'),
    ],
)
def test_what_does_not_divide_is_refused(overrides, devices, reason):
    with pytest.raises(UserError) as error:
        estimate.memory(*planned(recipe('s', *overrides)), 'tpu', devices)
    assert reason in str(error.value)


def test_every_chip_has_a_peak_and_its_own_kind():
    for name, chip in chips.CHIPS.items():
        assert hardware.device_peak(chip, 'bf16') > (8e12 if name == 't4' else 7e13), name
        assert chips.of_kind(chip.device_kind) is chips.find(name) is chip
    assert chips.of_kind('TPU v9') is None
    with pytest.raises(UserError, match='--device b300: is not a device with known figures; take one of v5e, '):
        chips.find('b300')

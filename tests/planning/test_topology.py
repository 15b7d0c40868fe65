import pytest

from rvm_jax.errors import UserError
from rvm_jax.planning import chips, gpu_targets
from rvm_jax.planning.topology import parse


@pytest.mark.parametrize(
    ('name', 'platform', 'devices', 'slices'),
    [
        ('v6e:16x16', 'tpu', 256, 1),
        ('v9:2x2', 'tpu', None, 1),  # libtpu may know it
        ('v6e', 'tpu', None, 1),
        ('h100:1', 'gpu', 1, 1),
        ('a100:8', 'gpu', 8, 1),
        ('b200:4x8', 'gpu', 32, 4),
        ('h200:2x4', 'gpu', 8, 2),
    ],
)
def test_a_name_says_how_many_devices_on_how_many_hosts(name, platform, devices, slices):
    assert parse(name) == (name, platform, devices, slices)


@pytest.mark.parametrize('name', ['h100', 'h100:', 'h100:0', 'h100:9', 'h100:2x2x2', 'h100:8x', 'h100:4x16'])
def test_hosts_that_cannot_be_are_refused_with_examples(name):
    with pytest.raises(UserError, match=r'h100:1, h100:8 or h100:4x8'):
        parse(name)


def test_gpus_that_have_an_estimate_alone_say_so():
    with pytest.raises(UserError, match=r'rtx4090:1: is not a GPU that XLA compiles for here; give --device rtx4090'):
        parse('rtx4090:1')


def test_every_gpu_that_can_be_compiled_for_has_rates():
    for name, target in gpu_targets.TARGETS.items():
        chip = chips.CHIPS[name]
        assert chips.platform(chip) == 'gpu' and chips.of_kind(target.device_kind) is chip
        assert chip.memory_rate == pytest.approx(target.memory_bandwidth, rel=0.01)
        text = gpu_targets.describe(target)
        assert text.count('{') == text.count('}') and f'core_count: {target.core_count} ' in text

"""The suite against what RVM published (its section 11.1 and Table 7)."""

import math

import jax
import pytest
from flax import nnx

from rvm_jax.probing import settings
from rvm_jax.probing.registry import BENCHMARKS


@pytest.mark.parametrize(
    ('name', 'frames', 'size', 'channels', 'heads'),
    [
        ('ssv2', 16, 224, 768, 12),
        ('kinetics700', 16, 224, 1024, 16),
        ('scannet', 16, 224, 1024, 16),
        ('perception_test', 16, 224, 1024, 8),
        ('waymo', 16, 256, 1024, 4),
    ],
)
def test_clips_and_readouts_are_as_published(name, frames, size, channels, heads):
    task, data = BENCHMARKS[name].task, settings.resolve(BENCHMARKS[name].dataset, {}, 'data')
    assert (data['num_frames'], data['image_size']) == (frames, size) and (task.channels, task.heads) == (
        channels,
        heads,
    )


def test_actions_are_every_second_frame_and_kinetics_averages_seven_clips():
    ssv2, kinetics = (settings.resolve(BENCHMARKS[name].dataset, {}, 'data') for name in ('ssv2', 'kinetics700'))
    assert ssv2['stride'] == kinetics['stride'] == 2 and ssv2['colors']
    assert (ssv2['num_clips'], kinetics['num_clips']) == (1, 7)


@pytest.mark.parametrize(
    ('name', 'width', 'count'),
    [
        ('ssv2', 384, 6_047_406),
        ('ssv2', 1024, 7_041_966),
        ('kinetics700', 768, 11_752_636),
        ('kinetics700', 1280, 12_810_428),
        ('scannet', 1024, 18_116_736),
    ],
)
def test_readouts_have_the_published_number_of_parameters(name, width, count):
    readout = nnx.eval_shape(lambda: BENCHMARKS[name].task.readout(width, 16, nnx.Rngs(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(readout, nnx.Param))) == count

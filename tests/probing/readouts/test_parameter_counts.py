import jax
import pytest
from flax import nnx

from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.pose import ClipPose
from rvm_jax.probing.tasks.recognition import Recognition


def count(task, width, num_frames):
    readout = nnx.eval_shape(lambda: task.readout(width, num_frames, nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(readout)))


@pytest.mark.parametrize(
    ('task', 'published'),
    [
        (Recognition(1000), 7_678_184),
        (Recognition(365), 7_189_869),
        (Recognition(8142), 13_170_382),
        (Recognition(174), 7_042_990),
        (Recognition(400, channels=1024, heads=16), 11_975_056),
        (Recognition(700, channels=1024, heads=16), 12_282_556),
        (ClipPose(), 1_650_444),
        (Depth(per_pixel=True), 3_284_353),
        (Points(recurrent=True), 12_897_668),
        (Boxes(recurrent=True), 12_931_462),
    ],
)
def test_readouts_of_17_frames_have_the_published_size(task, published):
    assert count(task, 1024, 17) == published


@pytest.mark.parametrize(
    ('width', 'ssv2', 'kinetics', 'scannet'),
    [
        (384, 6_047_406, 10_959_292, 16_794_496),
        (768, 6_644_142, 11_752_636, 17_587_840),
        (1024, 7_041_966, 12_281_532, 18_116_736),
        (1280, 7_439_790, 12_810_428, 18_645_632),
    ],
)
def test_readouts_of_rvm_of_every_size(width, ssv2, kinetics, scannet):
    assert count(Recognition(), width, 16) == ssv2
    assert count(Recognition(700, channels=1024, heads=16), width, 16) == kinetics
    assert count(Depth(), width, 16) == scannet


def test_another_width_costs_streaming_trackers_one_dense_layer():
    for task in (Points(streaming=True), Boxes(streaming=True)):
        assert count(task, 768, 16) - count(task, 1024, 16) == 768 * 1024 + 1024

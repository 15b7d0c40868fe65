"""Every public benchmark in one table: its datasets, its task, how its readout learns; `demo_suite` has ours.

Settings are those of RVM (its section 11 and Table 7) where it gives them, and else those of the work that it follows:
4DS (arXiv 2412.15212), DIF (arXiv 2502.07001); streaming readouts are those of arXiv 2605.19137. What no one published
is a choice of ours, named in the dataset's or the task's docstring.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from rvm_jax.probing.datasets.davis import Davis
from rvm_jax.probing.datasets.imagenet import ImageNet
from rvm_jax.probing.datasets.inaturalist import INaturalist
from rvm_jax.probing.datasets.jhmdb import Jhmdb
from rvm_jax.probing.datasets.kinetics import Kinetics
from rvm_jax.probing.datasets.movi_e import MoviE
from rvm_jax.probing.datasets.nuscenes import NuScenes
from rvm_jax.probing.datasets.perception_test import PerceptionTest
from rvm_jax.probing.datasets.places365 import Places365
from rvm_jax.probing.datasets.realestate10k import RealEstate10K
from rvm_jax.probing.datasets.scannet import ScanNet
from rvm_jax.probing.datasets.ssv2 import SSv2
from rvm_jax.probing.datasets.vip import Vip
from rvm_jax.probing.datasets.waymo import Waymo
from rvm_jax.probing.tasks.boxes import Boxes
from rvm_jax.probing.tasks.depth import Depth
from rvm_jax.probing.tasks.points import Points
from rvm_jax.probing.tasks.pose import ClipPose, FramePose
from rvm_jax.probing.tasks.propagation import Keypoints, ObjectMasks, PartMasks, Stability
from rvm_jax.probing.tasks.recognition import Recognition
from rvm_jax.probing.train_readout import Schedule


@dataclasses.dataclass(frozen=True)
class Readout:
    """A benchmark whose readout is trained. Both datasets are called as (root, split)."""

    dataset: Callable
    task: Any
    schedule: Schedule = Schedule()  # noqa: RUF009 (frozen)
    train_dataset: Callable | None = None  # where training reads another dataset than evaluation


@dataclasses.dataclass(frozen=True)
class Propagation:
    """A benchmark without training: labels of the first frame are carried through each video."""

    dataset: Callable
    task: Any


BENCHMARKS = {
    'ssv2': Readout(SSv2, Recognition(174)),
    'kinetics400': Readout(Kinetics, Recognition(400, channels=1024, heads=16)),
    'kinetics700': Readout(Kinetics, Recognition(700, channels=1024, heads=16)),
    'imagenet': Readout(ImageNet, Recognition(1000), Schedule(steps=200_182, batch_size=64)),
    'places365': Readout(Places365, Recognition(365), Schedule(steps=10_000, batch_size=512)),
    'inaturalist2018': Readout(INaturalist, Recognition(8142), Schedule(steps=10_000, batch_size=512)),
    'scannet': Readout(ScanNet, Depth()),
    'perception_test': Readout(PerceptionTest, Points(), train_dataset=MoviE),
    'waymo': Readout(Waymo, Boxes()),
    'realestate10k': Readout(RealEstate10K, ClipPose()),
    'nuscenes': Readout(NuScenes, FramePose()),
    'davis': Propagation(Davis, ObjectMasks()),
    'davis_stability': Propagation(Davis, Stability()),
    'jhmdb': Propagation(Jhmdb, Keypoints()),
    'vip': Propagation(Vip, PartMasks()),
}

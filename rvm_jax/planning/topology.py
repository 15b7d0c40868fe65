"""Devices by a name that a user types: a slice of TPUs (v6e:16x16), or hosts x GPUs (h100:8, h100:4x8)."""

import math
import re
from typing import NamedTuple

from rvm_jax.errors import UserError
from rvm_jax.planning import chips
from rvm_jax.planning.gpu_targets import TARGETS


class Topology(NamedTuple):
    """slices: as JAX counts them, of TPUs one, of GPUs each host. devices: None where libtpu alone knows."""

    name: str
    platform: str  # 'gpu' or 'tpu'
    devices: int | None
    slices: int


def parse(name: str) -> Topology:
    """The Topology of a name; raises UserError for hosts of GPUs that cannot be. libtpu judges slices of TPUs."""
    kind, _, shape = name.partition(':')
    sizes = [int(size) for size in shape.split('x')] if re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape) else None
    if kind in chips.CHIPS and kind not in TARGETS and chips.platform(chips.CHIPS[kind]) == 'gpu':
        fix = f'give --device {kind} for an estimate, or one of {", ".join(TARGETS)}'
        raise UserError(f'--topology {name}', 'is not a GPU that XLA compiles for here', fix)
    if kind not in TARGETS:
        return Topology(name, 'tpu', math.prod(sizes) if sizes and kind in chips.CHIPS else None, 1)
    most = chips.CHIPS[kind].host_chips
    if sizes is None or len(sizes) > 2 or sizes[-1] > most:
        raise UserError(
            f'--topology {name}', f'is not hosts x GPUs of a host, which has at most {most}',
            f'give one such as {kind}:1, {kind}:{most} or {kind}:4x{most}',
        )  # fmt: skip
    return Topology(name, 'gpu', math.prod(sizes), sizes[0] if len(sizes) == 2 else 1)

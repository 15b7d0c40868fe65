"""What a device and its host can do by their makers' data sheets, for predictions; peaks of compute are in cost.py.

Memory of TPUs is what their compiler says it may use, of GPUs all that there is: see `available`. Links: TPU chips are
joined in a torus, GPUs by NVLink within a host and by one network card each across hosts. Sources: Google's pages on
TPU v5e, v5p and v6e (half of the bidirectional bandwidth between chips), machine types ct5lp-hightpu-8t,
ct5p-hightpu-4t, ct6e-standard-4t (slices of 16 chips or more; a slice of 8 is one ct6e-standard-8t with as many vCPUs),
a2-ultragpu-8g, a3-highgpu-8g, a3-ultragpu-8g and a4-highgpu-8g (vCPUs), NVIDIA's data sheets of A100 80GB SXM, H100
SXM, H200 SXM and HGX B200, and of the cards for workstations and inference (RTX 3090, 4090, 5090, A10, L4, L40S, T4).
The memory of these cards is what CUDA reports of them. They are joined by PCIe. For a host of them we assume 4 cards, 8
cores each and a network of 10 Gb/s; the machines that Google (G2: L4) and AWS (G6e: L40S, G4dn: T4) rent have more.
"""

import math
import os
from typing import NamedTuple

from rvm_jax.errors import UserError
from rvm_jax.planning.gpu_targets import TARGETS

GIB = 2**30


class Chip(NamedTuple):
    """device_kind as JAX calls it; memory in bytes; rates in bytes per second; the last two of a whole host."""

    device_kind: str
    memory: float
    memory_rate: float
    link_rate: float  # what one chip receives over all its links from its slice (TPU) or host (GPU)
    network_rate: float  # what one GPU receives from other hosts; a slice of TPUs has one network
    host_chips: int
    host_cores: int


CHIPS = {
    'v5e': Chip('TPU v5 lite', 15.75 * GIB, 819e9, 200e9, 200e9, 8, 224),
    'v5p': Chip('TPU v5', 95.74 * GIB, 2765e9, 600e9, 600e9, 4, 208),
    'v6e': Chip('TPU v6 lite', 31.25 * GIB, 1638e9, 400e9, 400e9, 4, 180),
    'a100': Chip(TARGETS['a100'].device_kind, TARGETS['a100'].memory, 2039e9, 300e9, 25e9, 8, 96),
    'h100': Chip(TARGETS['h100'].device_kind, TARGETS['h100'].memory, 3350e9, 450e9, 50e9, 8, 208),
    'h200': Chip(TARGETS['h200'].device_kind, TARGETS['h200'].memory, 4800e9, 450e9, 50e9, 8, 224),
    'b200': Chip(TARGETS['b200'].device_kind, TARGETS['b200'].memory, 7700e9, 900e9, 50e9, 8, 224),
    'rtx3090': Chip('NVIDIA GeForce RTX 3090', 23.6 * GIB, 936e9, 31.5e9, 1.25e9, 4, 32),
    'rtx4090': Chip('NVIDIA GeForce RTX 4090', 23.6 * GIB, 1008e9, 31.5e9, 1.25e9, 4, 32),
    'rtx5090': Chip('NVIDIA GeForce RTX 5090', 31.3 * GIB, 1792e9, 63e9, 1.25e9, 4, 32),
    'a10': Chip('NVIDIA A10', 22.0 * GIB, 600e9, 31.5e9, 1.25e9, 4, 32),
    'l4': Chip('NVIDIA L4', 22.0 * GIB, 300e9, 15.75e9, 12.5e9, 8, 96),
    'l40s': Chip('NVIDIA L40S', 44.4 * GIB, 864e9, 31.5e9, 50e9, 8, 192),
    't4': Chip('Tesla T4', 14.6 * GIB, 320e9, 15.75e9, 6.25e9, 4, 48),
}
SHARE = 0.75  # of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise

CLIPS_A_CORE = {'video of GOP 32': 38, 'JPEG shards': 280}  # 256 pixels, 8 frames a clip; measured on one vCPU


def find(name: str) -> Chip:
    """The Chip that a user names; raises UserError with the names there are."""
    if name not in CHIPS:
        raise UserError(f'--device {name}', 'is not a device with known figures', f'take one of {", ".join(CHIPS)}')
    return CHIPS[name]


def of_kind(device_kind: str) -> Chip | None:
    """The Chip that JAX calls so, or None."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)


def platform(chip: Chip) -> str:
    """'tpu' or 'gpu', as JAX names them."""
    return 'tpu' if chip.device_kind.startswith('TPU') else 'gpu'


def available(chip: Chip) -> float:
    """Bytes of a chip's memory that a program may use."""
    share = float(os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION') or SHARE) if platform(chip) == 'gpu' else 1
    return share * chip.memory


def slices(chip: Chip | None, devices: int) -> int:
    """How many slices JAX takes so many devices for: a slice of TPUs is one, of GPUs each host is one."""
    return 1 if chip is None or platform(chip) == 'tpu' else math.ceil(devices / chip.host_chips)

"""Checks that a fused attention kernel computes what plain attention does on this device, values and gradients.

A kernel that is wrong on one kind of device, or with one version of its library, would train a worse model without any
message. So the first start on a kind of device compares it with plain attention at every shape of the recipe. The
verdict is stored beside the compiled programs, and is used as long as the device, the software and the shapes stay the
same.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.errors import Unavailable, UserError, printable
from rvm_jax.models import attention, build
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.layer_shapes import blocks
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.storage import files
from rvm_jax.training import hardware, sharding

PLAIN = 'xla'
CLIPS = 2
SHARPNESS = 2.0  # spread of the scores: some keys get most of the weight, as in trained attention
OUTPUTS = ('values', 'gradients of queries', 'gradients of keys', 'gradients of values')
# A kernel may be this many times as far from float32 as plain attention in bfloat16 is. It rounds as often, in other
# places: correct kernels were 0.75 to 1.5 times as far, on a CPU. One wrong row of a thousand is an error of
# 1 / sqrt(1000) = 3 % of the whole, and rounding one of 0.3 %.
MOST = 3.0
# Relative error of one number in bfloat16. Plain attention can by chance be closer than this; kernels need not be.
ROUNDING = 2.0**-9


class Shape(NamedTuple):
    """Sizes of one attention."""

    queries: int
    keys: int
    heads: int
    head_dim: int


class Difference(NamedTuple):
    """How far an output of a kernel is from float32, and how far plain attention in bfloat16 is: shares of its size."""

    output: str
    kernel: float
    plain: float

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains it; it does not explain NaN."""
        return self.kernel <= MOST * max(self.plain, ROUNDING)


def shapes(config: ml_collections.ConfigDict, arch: Architecture, execution: Execution) -> list[Shape]:
    """Shapes of a recipe's attentions that 'auto' gives to a fused kernel, sorted; see `attention.best`."""
    sizes = {name: config.data[name] for name in ('num_source', 'num_target', 'image_size')}
    parts = blocks(arch, **sizes)
    parts.pop('aggregator')  # it always takes plain attention
    found = {Shape(*one[1:]) for part in parts.values() if part.passes for one in part.attentions if one.groups}
    fused = attention.FUSED.get(execution.platform, ())
    return sorted(shape for shape in found if _best(shape, execution.platform) in fused)


def compare(execution: Execution, shape: Shape, device: jax.Device) -> list[Difference]:
    """A Difference for each of `OUTPUTS`: attention by execution on a device; raises what the kernel raises.

    With one key the gradients of queries and keys are zero. A kernel gives rounding errors there, and there is nothing
    to compare them with, so they are left out.
    """
    arrays = jax.device_put(_draw(shape), device)
    found = _outputs(execution, *arrays)
    plain = _outputs(dataclasses.replace(execution, implementation=PLAIN), *arrays)
    with jax.default_matmul_precision('highest'):
        exact_execution = Execution(PRECISIONS['float32'], PLAIN, platform=execution.platform)
        exact = _outputs(exact_execution, *(x.astype(jnp.float32) for x in arrays))
    return [
        Difference(name, _distance(one, true), _distance(usual, true))
        for name, one, usual, true in zip(OUTPUTS, found, plain, exact, strict=True)
        if shape.keys > 1 or name not in ('gradients of queries', 'gradients of keys')
    ]


class Verdict(NamedTuple):
    """What a comparison at all shapes found."""

    is_right: bool
    words: str  # what differs most, by how much, and at which shape; '' if there was nothing to compare


def judge(execution: Execution, all_shapes: list[Shape], device: jax.Device) -> Verdict:
    """The Verdict on attention computed by execution on a device; a kernel that fails is wrong."""
    found = []
    for shape in all_shapes:
        try:
            found += [(one, shape) for one in compare(execution, shape, device)]
        except Exception as error:  # whatever a compiler or a kernel's library raises
            reason = (str(error) or 'no reason given').splitlines()[0]
            return Verdict(False, printable(f'fails at {_in_words(shape)} ({type(error).__name__}: {reason})'))
    wrong = [pair for pair in found if not pair[0].is_rounding]
    if not found:
        return Verdict(True, '')
    worst, where = max(wrong or found, key=lambda pair: math.inf if math.isnan(pair[0].kernel) else pair[0].kernel)
    return Verdict(
        not wrong,
        f'differs from float32 in its {worst.output} by {worst.kernel:.2%} (plain attention in bfloat16: '
        f'{worst.plain:.2%}), at {_in_words(where)}',
    )


def choose(config: ml_collections.ConfigDict, arch: Architecture, mesh: Mesh, hosts: ProcessGroup, folder: str) -> str:
    """The `model.attention` to train with: the one of the recipe, or another if 'auto' would take a wrong kernel.

    All processes compare, each on one of its devices, and make the same choice. Verdicts are stored in the folder.
    Raises UserError, in all processes, if the recipe names a kernel and it is wrong.
    """
    execution = build.execution(config.model, sharding.platform(mesh))
    kernels, is_free = candidates(execution)
    all_shapes = shapes(config, arch, execution) if kernels else []
    if not all_shapes:
        return execution.implementation
    device = mesh.local_devices[0]
    facts = {'device': device.device_kind, **hardware.software(device), 'shapes': list(map(list, all_shapes))}
    for i, kernel in enumerate(kernels):
        implementation = 'auto' if is_free and i == 0 else kernel
        judged = dataclasses.replace(execution, implementation=implementation)
        wrong = _wrong_anywhere(judged, all_shapes, device, hosts, folder, facts | {'kernel': kernel})
        if not wrong:
            return implementation
        if not is_free:
            raise UserError(f'config.model.attention={kernel}', wrong, 'take auto or xla')
        instead = [*kernels, PLAIN][i + 1]
        hosts.say(
            f'fused attention ({kernel}) {wrong}: training with model.attention={instead} instead, which is slower'
        )
    return PLAIN


def candidates(execution: Execution) -> tuple[tuple[str, ...], bool]:
    """(kernels that an execution may use, the best first; whether another one may be used instead)."""
    if execution.precision.block != jnp.bfloat16 or execution.precision.half_logits:
        return (), True
    kernels = attention.FUSED.get(execution.platform, ())
    if execution.implementation == 'auto':
        return kernels, True
    return ((execution.implementation,) if execution.implementation in kernels else ()), False


def _wrong_anywhere(execution, all_shapes, device, hosts, folder, facts):
    """What is wrong with a kernel on the device of any process, as text that is the same in all; '' if nothing is."""
    everyone = hosts.all_gather(facts)
    paths = [os.path.join(folder, f'attention_{_hash(one)}.json') for one in everyone]
    known = hosts.broadcast_from_first(lambda: [_kept(path) for path in paths])
    is_new = None in known
    if is_new:
        hosts.say(f'comparing fused attention ({facts["kernel"]}) with plain attention on {facts["device"]}')
        verdict = judge(execution, all_shapes, device)
        known = hosts.all_gather('' if verdict.is_right else verdict.words)
        if hosts.is_first:
            for path, one in dict(zip(paths, everyone, strict=True)).items():  # of each kind of device
                wrong = [found for place, found in zip(paths, known, strict=True) if place == path and found]
                _keep(path, one, wrong[0] if wrong else '')
    index = next((index for index, wrong in enumerate(known) if wrong), None)
    if index is None:
        return ''
    who = f' (process {index})' if is_new and hosts.count > 1 else ''
    return f'on {everyone[index]["device"]}{who} {known[index]}'


def _kept(path):
    """The verdict in a file; None if it does not exist or cannot be read."""
    try:
        wrong = files.read_json(path, 2**20)['wrong']
    except (OSError, ValueError, LookupError, TypeError, Unavailable):
        return None
    return wrong if isinstance(wrong, str) else None


def _keep(path, facts, wrong):
    with contextlib.suppress(OSError, Unavailable):  # a cache of compiled programs may be read-only
        files.make_folder(os.path.dirname(path))
        files.write_json(path, {**facts, 'wrong': wrong}, indent=2)


def _hash(facts):
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _abstract(shape):
    """Shapes of queries, keys and values in bfloat16."""
    lengths = shape.queries, shape.keys, shape.keys
    return [jax.ShapeDtypeStruct((CLIPS, length, *shape[2:]), jnp.bfloat16) for length in lengths]


def _best(shape, platform):
    """What 'auto' takes for this shape."""
    query, key, value = _abstract(shape)
    return attention.best(query, key, value, platform)


def _draw(shape):
    """Queries, keys, values, and gradients of the output, in bfloat16; the same at every call."""
    rng = np.random.default_rng(0)
    lengths = shape.queries, shape.keys, shape.keys, shape.queries
    drawn = [rng.standard_normal((CLIPS, length, *shape[2:]), np.float32) for length in lengths]
    drawn[0] *= SHARPNESS
    return [x.astype(jnp.bfloat16) for x in drawn]


@functools.partial(jax.jit, static_argnums=0)
def _outputs(execution, query_BQHd, key_BKHd, value_BKHd, grad_BQHd):
    def weighted(query_BQHd, key_BKHd, value_BKHd):
        out_BQHd = attention.attention(query_BQHd, key_BKHd, value_BKHd, execution)
        return (out_BQHd.astype(jnp.float32) * grad_BQHd.astype(jnp.float32)).sum(), out_BQHd

    gradients, out_BQHd = jax.grad(weighted, (0, 1, 2), has_aux=True)(query_BQHd, key_BKHd, value_BKHd)
    return out_BQHd, *gradients


def _distance(found, exact):
    """Root mean square of the difference, relative to that of exact; inputs have a size of about 1."""
    found, exact = (np.asarray(x, np.float32) for x in (found, exact))
    return float(np.sqrt(np.mean((found - exact) ** 2)) / max(np.sqrt(np.mean(exact**2)), 1e-4))


def _in_words(shape):
    return f'{shape.queries} queries x {shape.keys} keys, {shape.heads} heads of {shape.head_dim}'

"""The first state of a run: restored from its newest good checkpoint, started from other weights, or fresh."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rvm_jax.conversion.frozen import FrozenEncoder
from rvm_jax.data.mixture import Mixture
from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.errors import UserError
from rvm_jax.models import cost, param_names, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.rvm import RVM
from rvm_jax.storage import files
from rvm_jax.terminal import counted
from rvm_jax.training.checkpoint import Checkpoints
from rvm_jax.training.state import Programs


def keep_compiled(workdir: str, mesh: Mesh) -> str:
    """Keep compiled programs in the workdir, so that a run that starts again does not compile again.

    Not on a CPU: a program compiled for one CPU may not run on another. A cache that the user has set
    (JAX_COMPILATION_CACHE_DIR) stays in use. Call it before anything large is compiled. Returns the folder, where other
    findings about the device may be kept, on a CPU too.
    """
    folder = os.path.join(files.absolute(workdir), 'compiled')
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if mesh.devices.flat[0].platform != 'cpu' and chosen is None:
        jax.config.update('jax_compilation_cache_dir', folder)
        if files.is_remote(workdir):  # JAX writes to buckets, but XLA's own caches of GPU kernels do not
            jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
    return chosen or folder


def restore(
    config: ml_collections.ConfigDict,
    abstract_state: dict[str, Any],
    hosts: ProcessGroup,
    checkpoints: Checkpoints,
    identity: dict[str, Any],
) -> tuple[dict[str, Any], int] | None:
    """(state, steps done) of the newest good checkpoint, None if there is none.

    identity: see `run_record.data_identity`. Raises UserError if the clips after that checkpoint would not be those of
    the run that wrote it, or if it has more steps than config.steps.
    """
    found = checkpoints.restore(abstract_state)
    if found is None:
        return None
    step, state, saved = found
    if saved.get('encoder') != identity.get('encoder'):
        raise UserError(
            f'step {step}', f'was trained on another encoder than {config.model.encoder_path}',
            'give the one that this run began with as config.model.encoder_path',
        )  # fmt: skip
    if saved != identity and not config.data.allow_change:
        changed = ', '.join(
            f'{name} was {saved.get(name)}, now {now}' for name, now in identity.items() if saved.get(name) != now
        )
        raise UserError(
            f'step {step}', f'was saved with other data or settings ({changed})',
            'restore data and config, or continue with --config.data.allow_change=true',
        )  # fmt: skip
    if step > config.steps:
        raise UserError(f'config.steps={config.steps}', f'{step} steps are done already', f'give {step} or more')
    hosts.say(f'resuming at step {step}')
    return state, step


def create(
    config: ml_collections.ConfigDict,
    programs: Programs,
    hosts: ProcessGroup,
    encoder: FrozenEncoder,
    load_initial: Callable[[str], RVM],
) -> tuple[dict[str, Any], int]:
    """(state, 0): fresh, but for what is taken over from config.init_from.

    Raises UserError if those weights do not fit, see `take_initial`.
    """
    path, abstract_state = config.init_from, programs.abstract_state
    if not path:
        return programs.create(), 0
    taken = take_initial(path, load_initial(path), programs.arch, encoder, abstract_state)
    state = programs.create()
    fresh = sorted(state['params'].keys() - taken['params'].keys())
    hosts.say(
        f'starting from {path}: {", ".join(sorted(taken["params"]))}'
        + (f'; fresh: {", ".join(fresh)}' if fresh else '')
    )
    for kind, tree in taken.items():
        for part, arrays in tree.items():
            for copy in [kind, *(['ema'] if kind == 'params' and 'ema' in state else [])]:
                state[copy][part] = state[copy][part] | trainable.place(arrays, abstract_state[copy][part])
    return state, 0


def take_initial(
    path: str,
    model: RVM,
    arch: Architecture,
    encoder: FrozenEncoder,
    abstract_state: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """What a run takes over from the model at path: {'params': {part: tree}, ...}, numpy arrays.

    A run that trains its encoder takes all, and all must fit. A run on a frozen encoder takes the core, which must fit,
    and other parts if they fit: adapters belong to one encoder and its taps, a decoder to one patch size. Raises
    UserError if what must fit does not.
    """
    kinds = [kind for kind in ('params', 'statistics') if kind in abstract_state]
    found = dict(zip(kinds, trainable.split(nnx.to_pure_dict(nnx.state(model)), arch), strict=False))
    found = jax.tree.map(np.asarray, found)
    if not arch.is_frozen:
        param_names.compare(
            param_names.tree_shapes(abstract_state['params']), param_names.tree_shapes(found['params']), path
        )
        return found
    _check_core(path, model.architecture, arch, abstract_state['params']['core'], found['params'].get('core', {}))
    taken: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for kind in kinds:
        for part, tree in found[kind].items():
            wanted = abstract_state[kind].get(part, {})
            # A decoder without a head for features serves in a run that trains one: the head starts fresh.
            shared = {name: wanted[name] for name in wanted if name in tree or name != 'feature_head'}
            is_ours = part != 'adapters' or _has_same_adapters(model, arch, encoder)
            if is_ours and tree and param_names.tree_shapes(tree) == param_names.tree_shapes(shared):
                taken[kind][part] = tree
    return taken


def summary(config: ml_collections.ConfigDict, programs: Programs, source: Mixture) -> str:
    """The first line of a run: the size of model and data, the work a clip is, and the devices."""
    arch, mesh, frozen = programs.arch, programs.mesh, programs.abstract_frozen
    trees = programs.abstract_state['params'], frozen
    trained, held = (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in trees)
    parameters = f'{trained:,} parameters' if not frozen else (
        f'{arch.encoder} with {arch.core}, {trained:,} parameters in training, {held:,} frozen')  # fmt: skip
    flops = cost.train_flops(
        arch,
        num_source=config.data.num_source,
        num_target=config.data.num_target,
        image_size=config.data.image_size,
    )
    device = mesh.devices.flat[0].device_kind
    parts = f', in {config.accumulate} parts,' if config.accumulate > 1 else ''
    return (
        f'{config.model.size}: {parameters}, {counted(len(source), "video")}, {flops / 1e9:.3g} GFLOP a clip, '
        f'{config.batch_size} clips a step{parts} on {mesh.devices.size} x {device}'
    )


def _has_same_adapters(model, arch, encoder):
    """Whether adapters of a model were trained on this very encoder and are used in the same way."""
    names = 'encoder', 'taps', 'adapter_norm', 'aggregator'
    if any(getattr(model.architecture, name) != getattr(arch, name) for name in names):
        return False
    theirs = param_names.tree_named({'encoder': nnx.state(model.encoder)})
    return theirs.keys() == encoder.named.keys() and all(
        np.array_equal(array, encoder.named[name]) for name, array in theirs.items()
    )


def _check_core(path, found, wanted, abstract_core, core):
    """Raise UserError unless the core of architecture `found` can be used in `wanted`; widths are never adapted."""
    if found.width != wanted.width:
        raise UserError(
            path, f'is {found.width} wide, and the frozen encoder {wanted.width}',
            'start from a model as wide as the encoder, or take an encoder as wide as the model',
        )  # fmt: skip
    keys = {'core': 'core', 'core_heads': 'size', 'gelu': 'gelu', 'block_order': 'block_order'}
    for name, key in keys.items():
        if getattr(found, name) != getattr(wanted, name):
            raise UserError(
                path, f'its {name} is {getattr(found, name)}, and that of this run {getattr(wanted, name)}',
                f'start from another model, or change config.model.{key}',
            )  # fmt: skip
    param_names.compare(param_names.tree_shapes({'core': abstract_core}), param_names.tree_shapes({'core': core}), path)

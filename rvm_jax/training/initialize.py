"""The first state of a run: restored from its newest good checkpoint, made from someone's weights, or fresh."""

import math
import os

import jax
import numpy as np
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import cost, param_names, trainable
from rvm_jax.storage import files


def keep_compiled(workdir, mesh):
    """Keep compiled programs in the workdir, so that a run that starts again does not compile again.

    Not on a CPU: its programs fit that very CPU alone. A cache that the user has set up (JAX_COMPILATION_CACHE_DIR)
    stays in use. Call it before anything large is compiled. Returns the folder; other findings about the device may be
    kept there, too, those about a CPU included.
    """
    folder = os.path.join(files.absolute(workdir), 'compiled')
    if mesh.devices.flat[0].platform != 'cpu' and jax.config.jax_compilation_cache_dir is None:
        jax.config.update('jax_compilation_cache_dir', folder)
        if files.is_remote(workdir):  # JAX reaches buckets, XLA's own caches of GPU kernels do not
            jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
    return jax.config.jax_compilation_cache_dir or folder


def restore_or_create(config, programs, encoder, hosts, checkpoints, identity, load_initial):
    """(state, steps done): from the newest good checkpoint, from config.init_from, or fresh.

    Raises UserError if the clips after that checkpoint would not be those that its run would have seen, or if it has
    more steps than the run shall have.
    """
    abstract_state = programs.abstract_state
    found = checkpoints.restore(abstract_state)
    if found is not None:
        step, state, saved = found
        if saved.get('encoder') != identity.get('encoder'):
            raise UserError(
                f'step {step}', f'was trained on another encoder than {config.model.encoder_path}',
                'give the one that this run began with as config.model.encoder_path',
            )  # fmt: skip
        if saved != identity and not config.data.allow_change:
            changed = ', '.join(f'{name} was {saved.get(name)}, now {identity[name]}' for name in identity)
            raise UserError(
                f'step {step}',
                f'was saved in another stream of clips ({changed})',
                'restore data and config, or continue with --config.data.allow_change=true',
            )
        if step > config.steps:
            raise UserError(
                f'config.steps={config.steps}', f'{step} steps are done already', f'give {step} or more'
            )  # fmt: skip
        hosts.say(f'resuming at step {step}')
        return state, step
    if not config.init_from:
        return programs.create(), 0
    taken = take_initial(config.init_from, load_initial(config.init_from), programs.arch, encoder, abstract_state)
    state = programs.create()
    fresh = sorted(state['params'].keys() - taken['params'].keys())
    hosts.say(
        f'starting from {config.init_from}: {", ".join(sorted(taken["params"]))}'
        + (f'; fresh: {", ".join(fresh)}' if fresh else '')
    )
    for kind, tree in taken.items():
        for part, arrays in tree.items():
            state[kind][part] = state[kind][part] | trainable.place(arrays, abstract_state[kind][part])
    return state, 0


def take_initial(path, model, arch, encoder, abstract_state):
    """What a run takes of a model that it starts from: {'params': {part: tree}, ...}, numpy arrays.

    All of it, which must fit, where the run trains its encoder. Beside a frozen encoder the core, which must fit, and
    what else does: adapters belong to one encoder and its taps, and a decoder to one patch size.
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
    taken = {kind: {} for kind in kinds}
    for kind in kinds:
        for part, tree in found[kind].items():
            wanted = abstract_state[kind].get(part, {})
            shared = {name: wanted[name] for name in wanted if name in tree or name != 'feature_head'}
            is_ours = part != 'adapters' or _has_same_adapters(model, arch, encoder)
            if is_ours and tree and param_names.tree_shapes(tree) == param_names.tree_shapes(shared):
                taken[kind][part] = tree
    return taken


def summary(config, programs, source):
    """The first line of a run: how large, on what, how much work."""
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
    return (
        f'{config.model.size}: {parameters}, {len(source)} videos, {flops / 1e9:.3g} GFLOP a clip, '
        f'{config.batch_size} clips a step on {mesh.devices.size} x {device}'
    )


def _has_same_adapters(model, arch, encoder):
    """Whether adapters of a model were trained on this very encoder, and used in the same way."""
    names = 'encoder', 'taps', 'adapter_norm', 'aggregator'
    if any(getattr(model.architecture, name) != getattr(arch, name) for name in names):
        return False
    theirs = param_names.tree_named({'encoder': nnx.state(model.encoder)})
    return theirs.keys() == encoder.named.keys() and all(
        np.array_equal(array, encoder.named[name]) for name, array in theirs.items()
    )


def _check_core(path, found, wanted, abstract_core, core):
    """Raise UserError unless the core of one architecture serves in another; widths are never adapted."""
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

"""How a run begins: fresh, from someone's weights, or where it stopped; and what must not have changed since."""

import dataclasses
import hashlib
import json
import math
import os
import shlex
import sys

import jax
import numpy as np
from flax import nnx

from rvm_jax import config as configs
from rvm_jax.conversion import mapping
from rvm_jax.data.dataset_manifest import check_unchanged, write_manifest
from rvm_jax.errors import UserError
from rvm_jax.models import cost, trainable
from rvm_jax.storage import files, run_lock
from rvm_jax.terminal import say
from rvm_jax.version import version

# What may differ between the parts of one run: it changes neither the clips nor the arithmetic beyond rounding.
MAY_CHANGE = ('log.', 'checkpoint.', 'mesh.', 'hosts.', 'profile.', 'model.attention', 'model.remat', 'model.unroll',
              'model.encoder_path', 'init_from', 'data.path', 'data.mixture', 'data.eval_path', 'data.num_workers',
              'data.decode_timeout', 'data.max_failures', 'data.allow_change', 'optim.max_nonfinite',
              'optim.allow_change')  # fmt: skip

# What else may differ where a key says so: the clips, or the schedule.
ALLOWED = {'data.allow_change': ('data.', 'seed', 'batch_size'), 'optim.allow_change': ('optim.', 'steps')}

CONFIG, MANIFEST, REPORT = 'config.json', 'data_manifest.json', 'data_report.json'

# What may differ between the processes of one run as well: where its files are on each host, and how they are decoded.
PER_HOST = ('data.path', 'data.mixture', 'data.eval_path', 'data.num_workers', 'data.decode_timeout', 'init_from',
            'model.encoder_path')  # fmt: skip


def data_identity(config, source, encoder):
    """What a checkpoint must share with the run that goes on from it: its stream of clips and its frozen encoder."""
    position = {'seed': config.seed, 'batch_size': config.batch_size, 'fingerprint': source.fingerprint()}
    return position | ({'encoder': encoder.fingerprint} if encoder.fingerprint else {})


def check_same_run(workdir, config, source):
    """Compare config and data with what the run in workdir, which goes on, began with: lines about what is allowed.

    Raises UserError with the differences that are not.
    """
    path, manifest = (os.path.join(workdir, name) for name in (CONFIG, MANIFEST))
    changes = _compare_configs(path, config, workdir) if files.exists(path) else []
    notice = check_unchanged(manifest, source, config.data.allow_change)
    changes += [notice] if notice else []
    for change in changes:
        say(change)
    return changes


def write_down(workdir, config, arch, source, step, changes):
    """Write down what the run in workdir is made of, and at which step it changed: config.json, data_manifest.json.

    Only once the state is there: what ends before, because it does not fit, must not pass for the run's own config.
    """
    path, manifest, report = (os.path.join(workdir, name) for name in (CONFIG, MANIFEST, REPORT))
    if not step or not files.exists(manifest) or check_unchanged(manifest, source, allow_change=True):
        files.remove(report)  # it is about other files, or of an attempt that never saved a step
        write_manifest(manifest, source)
    run = {'version': version(), 'command': shlex.join(sys.argv), 'config': config.to_dict()}
    run['architecture'] = dataclasses.asdict(arch)  # a frozen encoder's, too, which may lie elsewhere one day
    if config.model.encoder_path:  # wherever a command is run that opens this workdir
        run['config']['model']['encoder_path'] = os.path.abspath(config.model.encoder_path)
    before = files.read_json(path).get('changes', []) if step and files.exists(path) else []
    run['changes'] = before + [{'step': step, 'change': change} for change in changes]
    files.write_json(path, run, indent=2)


def check_hosts(hosts, config, source, held_out, encoder):
    """Raise UserError in all processes, naming who differs in what, unless config, code and data are the same."""
    if hosts.count == 1:
        return
    facts = {f'config.{key}': repr(value) for key, value in configs.flatten(config).items() if key not in PER_HOST}
    facts |= {'rvm_jax': code_version(), 'jax': jax.__version__}
    facts |= {'data': source.fingerprint(), 'held-out data': held_out.fingerprint() if held_out else ''}
    facts |= {'encoder': encoder.fingerprint}
    hosts.check_agreement(facts)


def check_shared(hosts, workdir):
    """Raise UserError in all processes unless each sees the lock that the first one wrote."""
    lock = os.path.join(workdir, run_lock.NAME)
    blind = [index for index, sees in enumerate(hosts.all_gather(files.exists(lock))) if not sees]
    if blind:
        who = f'process {blind[0]}' + (f' and {len(blind) - 1} more' if blind[1:] else '')
        raise UserError(workdir, f'is another place for {who}', 'take a disk that all share, or gs://BUCKET/PATH')


def code_version():
    """The version of this package, with a few hex digits that tell states of its code apart."""
    digest, package = hashlib.sha256(), os.path.dirname(configs.__file__)
    for name in sorted(name for name in files.files(package) if name.endswith('.py')):
        digest.update(name.encode() + files.read(os.path.join(package, name)))
    return f'{version()} {digest.hexdigest()[:8]}'


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


def config_hash(config):
    """A few hex digits that tell configs apart."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _compare_configs(path, config, workdir):
    """Lines about keys that changed since config.json at path was written, as allowed; UserError if it is not."""
    try:
        stored = files.read_json(path)['config']
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(path, f'cannot be read ({error})', 'remove it to go on with the config given now') from error
    before = configs.flatten(configs.from_dict(stored, path))
    now = configs.flatten(config)
    changed = {
        key: f'{key} was {before[key]!r}, now {now[key]!r}'
        for key in now
        if before[key] != now[key] and not key.startswith(MAY_CHANGE)
    }
    allowed = tuple(start for flag, starts in ALLOWED.items() if now[flag] for start in starts)
    refused = [key for key in changed if not key.startswith(allowed)]
    if refused:
        flags = {flag for flag, starts in ALLOWED.items() for key in refused if key.startswith(starts)}
        can_be = all(key.startswith(sum(ALLOWED.values(), ())) for key in refused)
        go_on = f'go on with {" ".join(f"--config.{flag}=true" for flag in sorted(flags))}, ' if can_be else ''
        raise UserError(
            workdir,
            f'its run began with another config: {"; ".join(changed[key] for key in refused)}',
            f'set it back, {go_on}or start a new run elsewhere with --config.init_from={workdir}',
        )
    return [f'changed since this run began, going on as allowed: {"; ".join(changed.values())}'] if changed else []


def restore_or_create(config, arch, encoder, hosts, checkpoints, position, abstract_state, create, load_initial):
    """(state, steps done): from the newest good checkpoint, from config.init_from, or fresh.

    Raises UserError if the clips after that checkpoint would not be those that its run would have seen, or if it has
    more steps than the run shall have.
    """
    found = checkpoints.restore(abstract_state)
    if found is not None:
        step, state, saved = found
        if saved.get('encoder') != position.get('encoder'):
            raise UserError(
                f'step {step}', f'was trained on another encoder than {config.model.encoder_path}',
                'give the one that this run began with as config.model.encoder_path',
            )  # fmt: skip
        if saved != position and not config.data.allow_change:
            changed = ', '.join(f'{name} was {saved.get(name)}, now {position[name]}' for name in position)
            raise UserError(
                f'step {step}',
                f'was saved in another stream of clips ({changed})',
                'restore data and config, or go on with --config.data.allow_change=true',
            )
        if step > config.steps:
            raise UserError(
                f'config.steps={config.steps}', f'{step} steps are done already', f'give {step} or more'
            )  # fmt: skip
        hosts.say(f'going on from step {step}')
        return state, step
    if not config.init_from:
        return create(), 0
    taken = take_initial(config.init_from, load_initial(config.init_from), arch, encoder, abstract_state)
    state = create()
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
        mapping.compare(mapping.tree_shapes(abstract_state['params']), mapping.tree_shapes(found['params']), path)
        return found
    _check_core(path, model.architecture, arch, abstract_state['params']['core'], found['params'].get('core', {}))
    taken = {kind: {} for kind in kinds}
    for kind in kinds:
        for part, tree in found[kind].items():
            wanted = abstract_state[kind].get(part, {})
            shared = {name: wanted[name] for name in wanted if name in tree or name != 'feature_head'}
            is_ours = part != 'adapters' or _has_same_adapters(model, arch, encoder)
            if is_ours and tree and mapping.tree_shapes(tree) == mapping.tree_shapes(shared):
                taken[kind][part] = tree
    return taken


def _has_same_adapters(model, arch, encoder):
    """Whether adapters of a model were trained on this very encoder, and used in the same way."""
    names = 'encoder', 'taps', 'adapter_norm', 'aggregator'
    if any(getattr(model.architecture, name) != getattr(arch, name) for name in names):
        return False
    theirs = mapping.tree_named({'encoder': nnx.state(model.encoder)})
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
    mapping.compare(mapping.tree_shapes({'core': abstract_core}), mapping.tree_shapes({'core': core}), path)


def summary(arch, config, source, mesh, abstract_params, frozen):
    """The first line of a run: how large, on what, how much work."""
    trained, held = (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in (abstract_params, frozen))
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

"""What a run consists of, as written in its workdir: config, code and data.

Also what of it may change when the run resumes, and the facts that are published with its parameters.
"""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from rvm_jax import config as configs
from rvm_jax import plugins
from rvm_jax.conversion.frozen import FrozenEncoder
from rvm_jax.data.dataset_manifest import check_unchanged, write_manifest
from rvm_jax.data.mixture import Mixture
from rvm_jax.distributed.process_group import ProcessGroup
from rvm_jax.errors import UserError
from rvm_jax.models.architecture import Architecture
from rvm_jax.storage import files, run_lock
from rvm_jax.terminal import counted, say
from rvm_jax.training.writer import read_metrics
from rvm_jax.version import version

# What may change when a run resumes: it changes neither the clips nor, beyond rounding, the arithmetic.
MAY_CHANGE = ('log.', 'checkpoint.', 'mesh.', 'hosts.', 'profile.', 'accumulate', 'model.attention', 'model.remat',
              'model.unroll', 'model.encoder_path', 'init_from', 'data.path', 'data.mixture', 'data.eval_path',
              'data.num_workers', 'data.decode_timeout', 'data.prepare_gb', 'data.max_failures', 'data.allow_change',
              'optim.max_nonfinite', 'optim.allow_change')  # fmt: skip

# What else may change if a key allows it: the clips, or the schedule.
ALLOWED = {'data.allow_change': ('data.', 'seed', 'batch_size'), 'optim.allow_change': ('optim.', 'steps')}

CONFIG, MANIFEST, REPORT = 'config.json', 'data_manifest.json', 'data_report.json'

# What may differ between the processes of a run: where its files are on each host, and how they are decoded.
PER_HOST = ('data.path', 'data.mixture', 'data.eval_path', 'data.num_workers', 'data.decode_timeout', 'init_from',
            'model.encoder_path')  # fmt: skip

PLACE = re.compile(r'(?<![^=])/.*/')  # the folders of an absolute path, alone or behind '='
# Overrides that name a place on somebody's disk.
PRIVATE = (
    '--config.data.path', '--config.data.mixture', '--config.data.eval_path', '--config.init_from',
    '--config.model.encoder_path',
)  # fmt: skip


def data_identity(config: ml_collections.ConfigDict, source: Mixture, encoder: FrozenEncoder) -> dict[str, Any]:
    """What must be the same in a checkpoint and the run that resumes from it: stream of clips and frozen encoder."""
    identity = {'seed': config.seed, 'batch_size': config.batch_size, 'fingerprint': source.fingerprint()}
    return identity | ({'encoder': encoder.fingerprint} if encoder.fingerprint else {})


def check_same_run(workdir: str | os.PathLike, config: ml_collections.ConfigDict, source: Mixture) -> list[str]:
    """Compare config and data with those that the run began with; returns lines about the changes that are allowed.

    Raises UserError with the differences that are not allowed.
    """
    path, manifest = (os.path.join(workdir, name) for name in (CONFIG, MANIFEST))
    changes = _compare_configs(path, config, workdir) if files.exists(path) else []
    notice = check_unchanged(manifest, source, config.data.allow_change)
    changes += [notice] if notice else []
    for change in changes:
        say(change)
    return changes


def write_down(
    workdir: str,
    config: ml_collections.ConfigDict,
    arch: Architecture,
    source: Mixture,
    step: int,
    changes: list[str],
) -> None:
    """Write config.json and data_manifest.json: what the run in workdir consists of, and what changed at which step.

    Call it once there is a state. A start that fails before, because something does not fit, must not replace the
    config of the run.
    """
    path, manifest, report = (os.path.join(workdir, name) for name in (CONFIG, MANIFEST, REPORT))
    if not step or not files.exists(manifest) or check_unchanged(manifest, source, allow_change=True):
        files.remove(report)  # it is about other files, or from an attempt that never saved a step
        write_manifest(manifest, source)
    run = {'version': version(), 'command': shlex.join(sys.argv), 'config': config.to_dict()}
    run['architecture'] = dataclasses.asdict(arch)  # of the frozen encoder too, whose files may be moved later
    if config.model.encoder_path:  # commands that open this workdir may run in another folder
        run['config']['model']['encoder_path'] = os.path.abspath(config.model.encoder_path)
    before = files.read_json(path).get('changes', []) if step and files.exists(path) else []
    run['changes'] = before + [{'step': step, 'change': change} for change in changes]
    files.write_json(path, run, indent=2)


def check_hosts(
    hosts: ProcessGroup,
    config: ml_collections.ConfigDict,
    source: Mixture,
    held_out: Mixture | None,
    encoder: FrozenEncoder,
) -> None:
    """Raise UserError, in all processes, unless config, code and data are the same; it says which process differs."""
    if hosts.count == 1:
        return
    facts = {f'config.{key}': repr(value) for key, value in configs.flatten(config).items() if key not in PER_HOST}
    facts |= {'rvm_jax': code_version(), 'jax': jax.__version__}
    facts |= {'data': source.fingerprint(), 'held-out data': held_out.fingerprint() if held_out else ''}
    facts |= {'encoder': encoder.fingerprint}
    facts |= {name: _digest(plugins.source_file(name)) for _, name, _ in configs.plugin_parts(config)}
    hosts.check_agreement(facts)


def check_shared(hosts: ProcessGroup, workdir: str) -> None:
    """Raise UserError, in all processes, unless each sees the lock that the first one wrote."""
    lock = os.path.join(workdir, run_lock.NAME)
    blind = [index for index, sees in enumerate(hosts.all_gather(files.exists(lock))) if not sees]
    if blind:
        who = f'process {blind[0]}' + (f' and {len(blind) - 1} more' if blind[1:] else '')
        raise UserError(
            workdir, f'is another folder for {who}', 'take a disk that all processes share, or gs://BUCKET/PATH'
        )


def code_version() -> str:
    """The version of this package, with a few hex digits that change with its code."""
    digest, package = hashlib.sha256(), os.path.dirname(configs.__file__)
    for name in sorted(name for name in files.files(package) if name.endswith('.py')):
        digest.update(name.encode() + files.read(os.path.join(package, name)))
    return f'{version()} {digest.hexdigest()[:8]}'


def _digest(path):
    return files.digest(path, 'sha256')[:8] if path else ''


def config_hash(config: ml_collections.ConfigDict) -> str:
    """A few hex digits that change with the config."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def run_facts(
    workdir: str | os.PathLike, run: Mapping[str, Any], config: ml_collections.ConfigDict, step: int
) -> dict[str, str]:
    """{what: text} about the parameters of a step; run is the workdir's config.json, config the ConfigDict in it."""
    facts = {
        'Recipe': recipe_line(str(run.get('command'))),
        'Encoder weights': _basename(config.model.encoder_path),
        'Data': _data(workdir, config),
        'Trained for': f'{step:,} of {counted(config.steps, "step")}, {counted(step * config.batch_size, "clip")}',
        **loss_facts(workdir, step),
        'Weights': f'moving average with decay {config.ema:g}' if config.ema else '',
        'Written by': f'rvm_jax {run.get("version")}',
    }
    return {what: text for what, text in facts.items() if text}


def loss_facts(workdir: str | os.PathLike, step: int) -> dict[str, str]:
    """{what: text} of the last losses that were logged up to a step."""
    logged = [entry for entry in read_metrics(os.path.join(workdir, 'metrics.jsonl')) if entry['step'] <= step]
    facts = {}
    if trained := _last(logged, 'loss'):
        facts['Training loss'] = f'{trained["loss"]:.5f} at step {trained["step"]:,}'
    if held_out := _last(logged, 'eval_loss'):
        trivial = {
            'copying the last source frame': 'eval_copy_last',
            'mean color of the source frames': 'eval_mean_color',
        }
        beside = [f'{words} {held_out[name]:.5f}' for words, name in trivial.items() if held_out.get(name) is not None]
        facts['Held-out loss'] = f'{held_out["eval_loss"]:.5f} at step {held_out["step"]:,}' + (
            f' ({", ".join(beside)})' if beside else ''
        )
    return facts


def recipe_line(command: str) -> str:
    """A command line without the folder of its program and without options that name files of the machine it ran on.

    Only that training was called from Python, if another program did it.
    """
    program, *words = command.split() or ['']
    name = os.path.splitext(_basename(program))[0]
    if command and name != 'rvm' and _basename(os.path.dirname(program)) != 'rvm_jax':
        return 'rvm_jax.train, called from Python'
    kept, is_kept = ([] if name == 'rvm' else [name]), True  # run as `python -m rvm_jax.train`
    for word in words:
        if word.startswith('-'):
            is_kept = word.startswith('--config') and not word.startswith(PRIVATE)
        if is_kept:
            kept.append(PLACE.sub('', word))
    return ' '.join(['rvm', *kept]) if command else ''


def _compare_configs(path, config, workdir):
    """Lines about keys that changed since config.json at path was written; UserError if the change is not allowed."""
    try:
        stored = files.read_json(path)['config']
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(path, f'cannot be read ({error})', 'remove it to continue with the config given now') from error
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
        allow = f'continue with {" ".join(f"--config.{flag}=true" for flag in sorted(flags))}, ' if can_be else ''
        raise UserError(
            workdir,
            f'its run began with another config: {"; ".join(changed[key] for key in refused)}',
            f'set it back, {allow}or start a new run elsewhere with --config.init_from={workdir}',
        )
    return [f'changed since this run began, continuing as allowed: {"; ".join(changed.values())}'] if changed else []


def _data(workdir, config):
    paths = [path for path, _, _ in config.data.mixture] or [config.data.path]
    name = ' + '.join(map(_basename, paths))
    try:
        count = files.read_json(os.path.join(workdir, 'data_manifest.json'))['videos']
        return f'{name}, {counted(count, "video")}'
    except (OSError, ValueError, LookupError, TypeError):  # only people read these facts: leave out what is missing
        return name


def _basename(path):
    return os.path.basename(path.rstrip('/'))


def _last(logged, name):
    return next((entry for entry in reversed(logged) if isinstance(entry.get(name), int | float)), None)

"""What a workdir says about how its parameters came about, in words that may be published with them."""

import os
import re

from rvm_jax.storage import files
from rvm_jax.training.writer import read_metrics

PLACE = re.compile(r'(?<![^=])/.*/')  # the folders of an absolute path, alone or behind '='
# Overrides that name a place on somebody's disk.
PRIVATE = (
    '--config.data.path', '--config.data.mixture', '--config.data.eval_path', '--config.init_from',
    '--config.model.encoder_path',
)  # fmt: skip


def run_facts(workdir, run, config, step):
    """{what: text} about the parameters of a step; run is the workdir's config.json, config the ConfigDict in it."""
    facts = {
        'Recipe': recipe_line(str(run.get('command'))),
        'Encoder weights': _basename(config.model.encoder_path),
        'Data': _data(workdir, config),
        'Trained for': f'{step:,} of {config.steps:,} steps, {step * config.batch_size:,} clips',
        **loss_facts(workdir, step),
        'Written by': f'rvm_jax {run.get("version")}',
    }
    return {what: text for what, text in facts.items() if text}


def loss_facts(workdir, step):
    """{what: text} of the last losses that were logged up to a step."""
    logged = [entry for entry in read_metrics(os.path.join(workdir, 'metrics.jsonl')) if entry['step'] <= step]
    facts = {}
    if trained := _last(logged, 'loss'):
        facts['Training loss'] = f'{trained["loss"]:.5f} at step {trained["step"]:,}'
    if held_out := _last(logged, 'eval_loss'):
        trivial = {'copying the last source frame': 'eval_copy_last', 'its mean color': 'eval_mean_color'}
        beside = [f'{words} {held_out[name]:.5f}' for words, name in trivial.items() if held_out.get(name) is not None]
        facts['Held-out loss'] = f'{held_out["eval_loss"]:.5f} at step {held_out["step"]:,}' + (
            f' ({", ".join(beside)})' if beside else ''
        )
    return facts


def recipe_line(command):
    """A command line without its program's folder and without options that name places of the machine it ran on."""
    program, *words = command.split() or ['']
    name = os.path.splitext(_basename(program))[0]
    kept, is_kept = ([] if name == 'rvm' else [name]), True  # run as `python -m rvm_jax.train`
    for word in words:
        if word.startswith('-'):
            is_kept = word.startswith('--config') and not word.startswith(PRIVATE)
        if is_kept:
            kept.append(PLACE.sub('', word))
    return ' '.join(['rvm', *kept]) if command else ''


def _data(workdir, config):
    paths = [path for path, _, _ in config.data.mixture] or [config.data.path]
    name = ' + '.join(map(_basename, paths))
    try:
        count = files.read_json(os.path.join(workdir, 'data_manifest.json'))['videos']
        return f'{name}, {count:,} video{"s" * (count != 1)}'
    except (OSError, ValueError, LookupError, TypeError):  # facts for people; a run without them is still a run
        return name


def _basename(path):
    return os.path.basename(path.rstrip('/'))


def _last(logged, name):
    return next((entry for entry in reversed(logged) if isinstance(entry.get(name), int | float)), None)

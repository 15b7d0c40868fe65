"""A workdir of somebody else: its config, its checkpoints and its logs are outside data like any other."""

import hashlib
import json
import os
import shutil

import pytest

STEP = 'checkpoints/20'
MANIFEST = f'{STEP}/rvm_manifest.json'
ARRAYS = f'{STEP}/state/_METADATA'


def read(path):
    """Load the newest step of a workdir; `rvm info` and `rvm export` may not fare worse."""
    import tempfile

    import guard

    guard.open_model(path)
    with tempfile.TemporaryDirectory() as folder:
        guard.refused_or_used(guard.command, ['export', '--model', path, '--output', os.path.join(folder, 'export')])


def in_json(change):
    """Change the values of a JSON file."""

    def rewrite(path):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return rewrite


def put(**values):
    return in_json(lambda old: old | values)


def recipe(**values):
    """Change keys of the recipe in a config.json."""

    def change(run):
        for key, value in values.items():
            section, _, name = key.rpartition('__')
            (run['config'][section] if section else run['config'])[name] = value
        return run

    return in_json(change)


def frozen(encoder, path):
    return recipe(model__encoder=encoder, model__target='light_target', model__encoder_path=path)


def sealed(change):
    """Change a manifest, and its digest with it, as whoever made it can."""

    def reseal(manifest):
        manifest = change({key: value for key, value in manifest.items() if key != 'digest'})
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        return manifest | {'digest': digest}

    return in_json(reseal)


def listed(name, facts):
    return sealed(lambda manifest: manifest | {'files': {name: facts}})


def written(data):
    return lambda path: path.write_bytes(data)


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def arrays(change):
    """Change what Orbax says of the arrays of the newest step, and let the manifest agree."""

    def rewrite(path):
        path.write_bytes(change(path.read_bytes()))
        agree(path.parents[1])

    return rewrite


def agree(step):
    """Let the manifest of a step fit the files that are there now."""
    manifest = json.loads((step / 'rvm_manifest.json').read_text())
    del manifest['digest']
    for path in [path for path in step.glob('*/**/*') if path.is_file()]:
        data = path.read_bytes()
        facts = {'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
        manifest['files'][str(path.relative_to(step))] = facts
    sealed(lambda _: manifest)(step / 'rvm_manifest.json')


def declare(shape):
    """Let one stored array declare a shape, without more data."""

    def rewrite(path):
        import tensorstore

        store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': f'file://{path.parent}/'}).result()
        key = 'params.core.input_reset.kernel/.zarray'
        facts = json.loads(store.read(key).result().value)
        store.write(key, json.dumps(facts | {'shape': shape}).encode()).result()
        agree(path.parents[1])

    return rewrite


def position(data):
    def rewrite(path):
        path.write_bytes(data)
        agree(path.parents[1])

    return rewrite


FACTS = {'size': 1, 'sha256': '0' * 64}
CASES = {  # name: (file, what is done to it, words of the reason, or None if the model can be used all the same)
    'as_it_was': ('config.json', put(), None),
    'no_config': ('config.json', written(b'{}'), 'config.json'),
    'config_is_a_pipe': ('config.json', pipe, 'config.json'),
    'recipe_is_a_list': ('config.json', put(config=[1]), 'holds no config'),
    'recipe_of_text': ('config.json', put(config='x'), 'holds no config'),
    'other_keys': ('config.json', put(config={'a.b': {'c': 1}, '__class__': 1, '': {}}), 'holds no config'),
    'deep_recipe': ('config.json', recipe(model=json.loads('{"a":' * 400 + '1' + '}' * 400)), ''),
    'size_is_a_list': ('config.json', recipe(model__size=['s']), 'model.size'),
    'huge_number': ('config.json', recipe(data__image_size=10**400), ''),
    'many_layers': ('config.json', recipe(model__core_layers=10**6), 'core_layers='),
    'wide_pictures': ('config.json', recipe(data__image_size=8 * 10**9), 'image_size='),
    'infinite_steps': ('config.json', recipe(steps=float('inf')), ''),
    'nan': ('config.json', recipe(data__fps=float('nan')), ''),
    'encoder_is_a_device': ('config.json', frozen('dinov2', '/dev/zero'), 'names it as the frozen encoder'),
    'encoder_is_a_folder_of_devices': ('config.json', frozen('rvm', '/dev'), 'names it as the frozen encoder'),
    'encoder_is_the_workdir': ('config.json', frozen('rvm', '.'), 'names it as the frozen encoder'),
    'command_is_a_list': ('config.json', put(command=['a'], version={'a': 1}), None),
    'command_of_control_characters': (
        'config.json', put(command='\x1b[2J rvm\n--config=\x07', version='\x1b[2J'), None
    ),
    'architecture_of_nothing': ('config.json', put(architecture={}), 'lacks or adds'),
    'manifest_is_a_pipe': (MANIFEST, pipe, 'cannot be read'),
    'manifest_is_deep': (MANIFEST, written(b'[' * 100_000), 'cannot be read'),
    'manifest_is_a_list': (MANIFEST, written(b'[]'), 'its digest does not match'),
    'manifest_is_no_text': (MANIFEST, written(b'\xff\xfe'), 'cannot be read'),
    'no_files': (MANIFEST, sealed(lambda manifest: {'step': 20}), ''),
    'files_is_a_list': (MANIFEST, sealed(lambda manifest: manifest | {'files': [1]}), ''),
    'file_without_facts': (MANIFEST, listed('state/x', 1), ''),
    'file_without_checksum': (MANIFEST, sealed(
        lambda old: old | {'files': {name: {'size': facts['size']} for name, facts in old['files'].items()}}), ''),
    'file_with_two_checksums': (MANIFEST, sealed(
        lambda old: old | {'files': {name: facts | {'md5': 'x'} for name, facts in old['files'].items()}}), ''),
    'climbing_file': (MANIFEST, listed('../../../../../../../etc/passwd', FACTS), 'is missing'),
    'absolute_file': (MANIFEST, listed('/dev/zero', FACTS), 'is missing'),
    'file_of_control_characters': (MANIFEST, listed('\x1b[2J\n', FACTS), 'is missing'),
    'million_files': (MANIFEST, sealed(
        lambda old: old | {'files': dict.fromkeys(map(str, range(400_000)), FACTS)}), 'it has'),
    'no_arrays': (ARRAYS, arrays(lambda _: b'{}'), ''),
    'arrays_without_end': (ARRAYS, arrays(lambda _: b'[' * 100_000), ''),
    'arrays_are_no_json': (ARRAYS, arrays(lambda _: b'\xff'), ''),
    'arrays_of_other_names': (ARRAYS, arrays(lambda data: data.replace(b'encoder', b'..\\u002f..')), ''),
    'arrays_of_ten_terabytes': (ARRAYS, declare([10**6, 10**7]), 'do not fit the model'),
    'arrays_of_a_gigabyte': (ARRAYS, declare([2**14, 2**14]), 'do not fit the model'),
    'arrays_of_more_than_there_is': (ARRAYS, declare([2**62, 2**62]), ''),
    'arrays_of_negative_shape': (ARRAYS, declare([-1, 4]), ''),
    'position_is_a_list': (f'{STEP}/data/metadata', position(b'[1]'), ''),
    'position_is_deep': (f'{STEP}/data/metadata', position(b'[' * 100_000), ''),
    'position_is_no_json': (f'{STEP}/data/metadata', position(b'\xff'), ''),
    'metrics_is_a_pipe': ('metrics.jsonl', pipe, None),
    'metrics_of_lists': ('metrics.jsonl', written(b'[1]\n"a"\n{"loss": 1}\n{"step": "a", "loss": 2}\n' * 3), None),
    'metrics_beyond': ('metrics.jsonl', written(b'{"step": 1e999, "loss": NaN}\n{"step": 9, "loss": 1e999}'), None),
    'metrics_of_text': ('metrics.jsonl', written(b'{"step": 20, "loss": 1, "mfu": "\\u001b[2J"}\n' * 2), None),
    'metrics_of_digits': ('metrics.jsonl', written(b'{"step": 2, "loss": ' + b'9' * 4000 + b'}\n'), None),
    'metrics_are_deep': ('metrics.jsonl', written(b'[' * 100_000 + b'\n'), None),
    'metrics_are_no_text': ('metrics.jsonl', written(b'\xff\xfe\n'), None),
    'lock_is_a_pipe': ('run.lock', pipe, None),
    'lock_of_control_characters': ('run.lock', written(b'{"pid": "\\u001b[2J", "host": ["\\n"]}'), None),
    'report_is_a_device': ('data_report.json', lambda path: (path.unlink(), path.symlink_to('/dev/zero')), None),
    'report_is_deep': ('data_report.json', written(b'[' * 100_000), None),
    'manifest_of_data_is_a_pipe': ('data_manifest.json', pipe, None),
    'manifest_of_data_is_odd': ('data_manifest.json', written(b'{"videos": [1]}'), None),
    'manifest_of_data_of_text': ('data_manifest.json', written(b'{"videos": "\\u001b[2J"}'), None),
}  # fmt: skip


@pytest.fixture(scope='module')
def outcomes(guard, make_workdir, tmp_path_factory):
    top = tmp_path_factory.mktemp('hostile_runs')
    valid = make_workdir(tmp_path_factory.mktemp('run') / 'run', steps=[20])
    for name, (file, change, _) in CASES.items():
        shutil.copytree(valid, top / name)
        change(top / name / file)
    found = guard.run(read, [top / name for name in CASES], first=[valid], seconds=10)
    shutil.rmtree(top)
    return dict(zip(CASES, found, strict=True))


@pytest.mark.slow
def test_hostile_workdirs(outcomes):
    wrong = []
    for name, (_, _, words) in CASES.items():
        outcome = outcomes[name]
        good = outcome.kind == 'used' if words is None else outcome.kind == 'refused' and words in outcome.text
        if outcome.fault or not good:
            wrong.append(f'{name} ({outcome.kind}): {outcome.fault or outcome.text}')
    assert not wrong, f'{len(wrong)} of {len(CASES)}:\n' + '\n'.join(wrong)

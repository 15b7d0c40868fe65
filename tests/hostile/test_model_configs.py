"""A config.json, and whatever lies beside weights, may be anybody's: what makes no sense is refused in one line."""

import dataclasses
import json
import os
import shutil

import pytest

UNREADABLE = 'cannot be read'


def read(path):
    import guard

    assert guard.open_model(path)


@dataclasses.dataclass
class Case:
    """A copy of a valid model with one of its files changed: file(valid bytes) -> bytes, or a way to make another."""

    model: str
    name: str
    file: str
    change: object
    words: str = ''
    kind: str = 'refused'


def changed(**values):
    """The config.json of either kind with some values changed."""

    def change(data):
        config = json.loads(data)
        (config['architecture'] if 'architecture' in config else config).update(values)
        return json.dumps(config).encode()

    return change


def spliced(key, text):
    """A config.json with text in place of a value, also such text as json would not write."""

    def change(data):
        marked = changed(**{key: 'MARK'})(data)
        return marked.replace(b'"MARK"', text)

    return change


def always(data):
    return lambda _: data() if callable(data) else data


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(target):
    def make(path):
        path.unlink()
        path.symlink_to(target)

    return make


def folder(path):
    path.unlink()
    path.mkdir()


def moved(path):
    """What a cache of downloads does: the file lies outside the folder, and a link leads to it."""
    os.makedirs(blobs := path.parent.parent / 'blobs', exist_ok=True)
    path.symlink_to(path.rename(blobs / path.parent.name))


TEXTS = {  # of a config.json of either kind -> words of the reason
    'empty': (always(b''), UNREADABLE),
    'cut_off': (lambda data: data[: len(data) // 2], UNREADABLE),
    'number': (always(b'3'), 'is not a JSON object'),
    'list': (always(b'[{}]'), 'is not a JSON object'),
    'page': (always(b'<!doctype html>'), UNREADABLE),
    'not_utf8': (lambda data: data.replace(b'"', b'"\xff', 1), UNREADABLE),
    'utf16': (lambda data: data.decode().replace('"', '"\x00', 1).encode(), UNREADABLE),
    'deep_lists': (always(b'[' * 1_000_000), UNREADABLE),
    'deep_objects': (always(b'{"a":' * 500_000 + b'1' + b'}' * 500_000), UNREADABLE),
    'hundred_megabytes': (always(lambda: b'{"a": "' + b'x' * 100_000_000 + b'"}'), 'has 100,000,009 bytes'),
    'million_keys': (always(lambda: json.dumps(dict.fromkeys(map(str, range(1_000_000)))).encode()), 'bytes'),
    'many_keys': (always(lambda: json.dumps(dict.fromkeys(map(str, range(60_000)))).encode()), ''),
    'many_lists': (always(b'{"a":[' + b'[],' * 300_000 + b'[]]}'), ''),
}
VALUES = {
    'integer_of_100000_digits': (b'9' * 100_000, UNREADABLE),
    'integer_of_4000_digits': (b'9' * 4000, None),
    'negative_integer_of_4000_digits': (b'-' + b'9' * 4000, None),
    'nan': (b'NaN', None),
    'infinity': (b'Infinity', None),
    'negative_infinity': (b'-Infinity', None),
    'beyond_a_float': (b'1e99999', None),
    'text': (b'"16"', None),
    'true': (b'true', None),
    'null': (b'null', None),
    'deep': (b'[' * 500 + b']' * 500, None),
    'object': (b'{"a": 1}', None),
    'negative': (b'-1', None),
    'fraction': (b'16.5', None),
    'control_letters': (b'"\\u001b[2J\\n\\u202e"', None),
    'half_a_letter': (b'"\\ud800"', None),
    'long': (b'"' + b'x' * 1_000_000 + b'"', None),
}
SIZES = {'export': ('width', 'encoder_layers', 'mask_ratio', 'taps'), 'dinov2': ('hidden_size', 'layer_norm_eps')}
PARTS = ('encoder', 'core', 'decoder', 'target')
CASES = [
    *(Case(model, name, 'config.json', *how) for model in SIZES for name, how in TEXTS.items()),
    *(
        Case(model, f'{key}_{name}', 'config.json', spliced(key, text), words or f'{key}=' if words is not None else '')
        for model, keys in SIZES.items()
        for key in keys
        for name, (text, words) in VALUES.items()
        if (key, name) not in (('mask_ratio', 'half'),)
    ),
    Case('export', 'ten_terabytes', 'config.json', changed(width=65536, encoder_mlp=65536, encoder_layers=128)),
    Case('export', 'many_layers', 'config.json', changed(encoder_layers=65536), 'encoder_layers='),
    Case('export', 'many_small_layers', 'config.json', changed(decoder_layers=60000), 'decoder_layers='),
    Case('export', 'deep', 'config.json', changed(**{f'{part}_layers': 128 for part in PARTS}), 'missing'),
    Case('export', 'taps', 'config.json', changed(taps='every:0')),
    Case('export', 'image_encoder', 'config.json', changed(image_encoder={'family': 'dinov2'}), 'lacks or adds'),
    Case('export', 'more_keys', 'config.json', changed(**{'\x1b[2J': 1}), 'lacks or adds'),
    Case('dinov2', 'ten_terabytes', 'config.json', changed(hidden_size=65536, num_hidden_layers=128)),
    Case('dinov2', 'many_layers', 'config.json', changed(num_hidden_layers=65536), 'num_hidden_layers='),
    Case('dinov2', 'many_positions', 'config.json', changed(image_size=65536, patch_size=1)),
    Case('dinov2', 'no_such_type', 'config.json', changed(model_type='__import__'), 'model_type='),
    Case('dinov2', 'type_is_a_list', 'config.json', changed(model_type=[1]), 'model_type'),
    Case('dinov2', 'remote_code', 'config.json', changed(auto_map={'AutoModel': 'x.X'}), kind='used'),
    Case('dinov2', 'same_key_twice', 'config.json', lambda data: data[:-1] + b', "hidden_size": 1}', 'hidden_size'),
    Case('dinov3', 'rope_theta', 'config.json', spliced('rope_theta', b'1e400'), 'rope_theta='),
    Case('clip', 'vision_config', 'config.json', changed(vision_config=[1]), 'vision_config'),
    *(
        Case('dinov2', f'preprocessor_{name}', 'preprocessor_config.json', always(text), words)
        for name, (text, words) in {
            'list': (b'[]', 'is not a JSON object'),
            'huge': (b'{"image_mean": [' + b'9' * 4000 + b', 1, 1]}', 'image_mean='),
            'nan': (b'{"image_std": [NaN, 1, 1]}', 'image_std='),
            'zero': (b'{"image_std": [0, 1, 1]}', 'image_std='),
            'long': (b'{"image_mean": [' + b'1,' * 300_000 + b'1]}', 'image_mean='),
        }.items()
    ),
    *(
        Case('dinov2', f'{file}_{kind}'.replace('.', '_'), file, how)
        for file in ('config.json', 'model.safetensors', 'preprocessor_config.json')
        for kind, how in {
            'pipe': pipe, 'folder': folder, 'zero': link('/dev/zero'), 'tty': link('/dev/ptmx'), 'loop': link('.'),
            'dangling': link('nothing'), 'itself': link('model.safetensors'), 'outside': link('/etc/passwd'),
        }.items()
    ),
    *(
        Case('export', f'{file}_{kind}'.replace('.', '_'), file, how)
        for file in ('config.json', 'model.safetensors')
        for kind, how in {
            'pipe': pipe, 'folder': folder, 'zero': link('/dev/zero'), 'outside': link('/etc/passwd'),
        }.items()
    ),
    Case('dinov2', 'links_of_a_cache', 'model.safetensors', moved, kind='used'),
]  # fmt: skip


def make(models, top, case):
    path = top / f'{case.model}_{case.name}'
    shutil.copytree(models[case.model], path)
    file = path / case.file
    if not file.exists():
        file.write_bytes(b'{}')
    if case.change in (pipe, folder, moved) or case.change.__qualname__.startswith('link'):
        case.change(file)
    else:
        file.write_bytes(case.change(file.read_bytes()))
    return path


@pytest.fixture(scope='module')
def outcomes(guard, models, tmp_path_factory):
    top = tmp_path_factory.mktemp('hostile_configs')
    paths = [make(models, top, case) for case in CASES]
    found = guard.run(read, paths, first=[models['export'], models['dinov2']], seconds=10)
    shutil.rmtree(top)
    return dict(zip(paths, found, strict=True))


@pytest.mark.long
def test_hostile_configs_are_refused(outcomes):
    wrong = []
    for case, outcome in zip(CASES, outcomes.values(), strict=True):
        if outcome.fault or outcome.kind != case.kind or case.words not in outcome.text:
            wrong.append(f'{case.model} {case.name} ({outcome.kind}): {outcome.fault or outcome.text}')
    assert not wrong, f'{len(wrong)} of {len(CASES)}:\n' + '\n'.join(wrong)

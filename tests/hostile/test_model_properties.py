"""Whatever values stand in a file of a model, its reader gives a model or one line that says why not."""

import contextlib
import dataclasses
import hashlib
import json
import re
import struct
import zipfile

import hypothesis
import ml_collections
import numpy as np
import pytest
from hypothesis import strategies as st

from rvm_jax import config as configs
from rvm_jax.conversion import export_folder, hugging_face, image_encoders, npz, safetensors, weight_files
from rvm_jax.errors import UserError
from rvm_jax.models import architecture
from rvm_jax.models.encoders import image_architecture
from rvm_jax.training import checksums, progress, writer

EXAMPLES = pytest.mark.parametrize('examples', [60, pytest.param(2000, marks=pytest.mark.slow)])
NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 16, 128, 65536, 65537, 2**31, 2**63, -(2**63), 10**400, 0.0, 0.5, 1e308])
PLAIN = st.none() | st.booleans() | st.integers() | NUMBERS | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ARCHITECTURE = dataclasses.asdict(architecture.SIZES['tiny'])
IMAGE = dataclasses.asdict(architecture.image_only(image_architecture.STANDARD['dinov3', 'tiny']))


def tried(examples, strategy, check):
    """check(example) for some examples."""
    hypothesis.settings(max_examples=examples)(hypothesis.given(strategy)(check))()


@contextlib.contextmanager
def one_line():
    """A UserError is as good as none, if it is one printable line."""
    try:
        yield
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 4000


def some_replaced(values):
    """Dicts like this one in which a few values are any, as they come out of a JSON file."""
    changes = st.dictionaries(st.sampled_from(sorted(values)), VALUES, min_size=1, max_size=4)
    return changes.map(lambda change: json.loads(json.dumps(values | change)))


@EXAMPLES
@pytest.mark.parametrize('values', [ARCHITECTURE, IMAGE, IMAGE['image_encoder']], ids=['rvm', 'image', 'encoder'])
def test_any_architecture_is_built_or_refused(values, examples):
    def check(changed):
        with one_line():
            if 'image_encoder' not in values:
                changed = IMAGE | {'image_encoder': changed}
            arch = export_folder.architecture_from(changed, 'config.json')
            assert isinstance(arch, architecture.Architecture) and 0 < arch.width <= export_folder.LARGEST

    tried(examples, some_replaced(values) | VALUES, check)


@EXAMPLES
def test_any_recipe_of_a_run_is_taken_or_refused(examples):
    flat = configs.flatten(configs.default())

    def check(changed):
        nested = {}
        for key, value in changed.items():
            section, _, name = key.rpartition('.')
            (nested.setdefault(section, {}) if section else nested)[name] = value
        with one_line():
            assert isinstance(configs.from_dict(nested, 'config.json'), ml_collections.ConfigDict)

    tried(examples, some_replaced({key: value for key, value in flat.items()}), check)


@EXAMPLES
@pytest.mark.parametrize('model_type', sorted(image_encoders.MODEL_TYPES))
def test_any_config_of_hugging_face_is_taken_or_refused(model_type, examples):
    module = image_encoders.FAMILIES[image_encoders.MODEL_TYPES[model_type]]
    defaults = module.DEFAULTS[model_type]

    def check(changed):
        with one_line():
            arch = module.from_config(model_type, hugging_face.Config('config.json', changed, defaults))
            assert 0 < arch.width <= export_folder.LARGEST and 0 < arch.layers <= export_folder.MOST_LAYERS

    tried(examples // 2, some_replaced(hugging_face.DEFAULTS | defaults), check)


@EXAMPLES
def test_any_normalization_is_taken_or_refused(examples, tmp_path):
    def check(values):
        (tmp_path / hugging_face.PREPROCESSOR).write_text(json.dumps(values))
        with one_line():
            found = hugging_face.normalization(tmp_path)
            assert all(len(value) == 3 and np.all(np.isfinite(value)) for value in found.values())

    keys = {'image_mean': [0.5] * 3, 'image_std': [1, 1, 1], 'do_normalize': True}
    tried(examples, some_replaced(keys) | VALUES, check)


HEADERS = st.fixed_dictionaries({
    'descr': st.sampled_from(['<f4', '|O', '>f4', '<f8', 'V', '<U9', [('a', '<f4')], ('<f4', 2**40)]) | PLAIN,
    'fortran_order': st.booleans() | PLAIN,
    'shape': st.lists(NUMBERS | st.integers(-2, 4), max_size=7).map(tuple) | VALUES,
}).map(repr)  # fmt: skip


@EXAMPLES
def test_any_header_of_an_array_is_read_or_refused(examples, tmp_path):
    def check(example):
        text, version, data = example
        length = struct.pack('<H' if version == 1 else '<I', len(text.encode('utf8', 'replace')))
        with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
            header = b'\x93NUMPY' + bytes([version, 0]) + length + text.encode('utf8', 'replace')
            archive.writestr('a.npy', header + data)
        with one_line():
            assert all(array.dtype == np.float32 for array in npz.read_npz(tmp_path / 'x.npz').values())

    texts = HEADERS | st.text(max_size=40) | st.text('()[]{}-,:\'"1 \n', max_size=60)
    tried(examples, st.tuples(texts, st.integers(1, 4), st.binary(max_size=64)), check)


ENTRIES = st.fixed_dictionaries({
    'dtype': st.sampled_from(['F32', 'F16', 'BF16', 'F64', 'I64', 'BOOL', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F4']),
    'shape': st.lists(st.sampled_from([0, 1, 2, 4, 2**31, 2**63, 2**64, -1, 0.5]), max_size=4),
    'data_offsets': st.lists(st.sampled_from([0, 4, 8, 16, 64, 2**62, 2**64, -4]), min_size=1, max_size=3),
}) | VALUES  # fmt: skip


@EXAMPLES
def test_any_header_of_safetensors_is_read_or_refused(examples, tmp_path):
    def check(example):
        header, extra, data = example
        text = json.dumps(header).encode()
        (tmp_path / 'model.safetensors').write_bytes(struct.pack('<q', len(text) + extra) + text + data)
        for read in (safetensors.read_safetensors, safetensors.read_header, read_all):
            with one_line():
                assert all(isinstance(name, str) for name in read(tmp_path / 'model.safetensors'))

    def read_all(path):
        return safetensors.read_tensors(path, safetensors.read_header(path))

    headers = st.dictionaries(
        st.sampled_from(['a', 'b', '__metadata__', '\x1b', '\ud800']) | st.text(), ENTRIES, max_size=3
    )
    whole = st.sampled_from(['F32', 'F16', 'BF16', 'F4', 'F8_E4M3', 'I8', 'U64']).map(
        lambda dtype: {'a': {'dtype': dtype, 'shape': [16], 'data_offsets': [0, 64]}}
    )
    extras = st.sampled_from([0, 0, 0, 1, -1, 2**40])
    tried(examples, st.tuples(headers | whole, extras, st.binary(max_size=16) | st.just(bytes(64))), check)


@EXAMPLES
def test_anything_in_a_pickle_of_weights_is_taken_or_refused(examples):
    arrays = st.builds(lambda: np.zeros(3, np.float32))
    keys = st.sampled_from(['model', 'teacher', 'state_dict', 'a', 3, (1, ('b',)), None])
    nested = st.recursive(
        arrays | PLAIN, lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2)
    )

    def check(found):
        if isinstance(found, dict) and len(found) == 2:
            found['model'] = found  # a pickle can hold itself
        with one_line():
            state = weight_files.state_dict(found, 'x.pth', lambda value: isinstance(value, np.ndarray))
            assert all(isinstance(key, str) for key in state)

    tried(examples, nested, check)


@EXAMPLES
def test_any_manifest_of_a_checkpoint_is_verified_or_damaged(examples, tmp_path):
    def check(values):
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        (tmp_path / checksums.NAME).write_text(json.dumps(values | {'digest': digest}))
        with contextlib.suppress(checksums.Damaged):
            assert checksums.verify(tmp_path)['files'] == {}

    facts = {'size': VALUES, 'sha256': VALUES}
    names = st.sampled_from(['a/b', '../x', '/dev/zero', checksums.NAME]) | st.text()
    files = st.dictionaries(names, st.fixed_dictionaries(facts, optional={'md5': VALUES}) | VALUES, max_size=2)
    tried(examples, st.fixed_dictionaries({'files': files | VALUES, 'tree': st.just({}) | VALUES}), check)


@EXAMPLES
def test_any_log_gives_numbers_that_can_be_shown(examples, tmp_path):
    def check(lines):
        (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join(lines))
        for entry in writer.read_metrics(tmp_path / 'metrics.jsonl'):
            assert re.match(f'step {entry["step"]}/', progress.format_line(entry['step'], 10, entry))

    logged = some_replaced({'step': 3, 'loss': 0.5, 'mfu': 0.2, 'skipped_videos': 1, 'clips_per_second': None}) | VALUES
    tried(
        examples,
        st.lists(logged.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=8), max_size=4),
        check,
    )

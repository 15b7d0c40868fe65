"""Eight CPU devices for every test, and programs compiled once a session; set before JAX is first imported."""

import dataclasses
import gc
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zlib

import numpy as np
import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
FLAGS = (
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',  # programs that run for milliseconds need no machine code of the best kind
    '--xla_llvm_disable_expensive_passes=true',
    # Kernels as older versions made them are compiled in half the time. XLA ends a process that gives an unknown flag.
    *(['--xla_cpu_use_fusion_emitters=false'] if importlib.metadata.version('jaxlib') < '0.12' else []),
)
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *FLAGS])
gc.set_threshold(100_000, 20, 20)  # JAX's heap is large: collections at the usual rate are a twentieth of the suite
COMPILED = tempfile.TemporaryDirectory(prefix='rvm_jax_compiled_')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', COMPILED.name)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')


GOLDENS = pathlib.Path(__file__).parent / 'goldens'
MOST_OBJECTS = 1_000_000  # of Python; a run of the tiny recipe leaves half of that


def pytest_collection_modifyitems(items):
    """Files whose tests are whole runs come first: at the end, one of them would leave all other processes waiting."""
    items.sort(key=lambda item: item.path.parent.name not in ('faults', 'training', 'launch'))


@pytest.fixture(scope='module', autouse=True)
def small_heap():
    """Forget traced programs when there are many: Python's collector walks through all they hold, again and again."""
    yield
    if len(gc.get_objects()) > MOST_OBJECTS and 'jax' in sys.modules:
        sys.modules['jax'].clear_caches()
        gc.collect()


@pytest.fixture
def caplog(caplog, monkeypatch):
    """What the package logs, too: its logger passes nothing on to the root logger, where pytest listens."""
    monkeypatch.setattr(logging.getLogger('rvm_jax'), 'propagate', True)
    return caplog


class Store:
    """A bucket of its own in the stand-in store, which can be told to fail."""

    def __init__(self, url, bucket):
        self.path = f'gs://{bucket}/runs/one'
        self._faults = f'{url}/faults/{bucket}'

    def fail(self, rate, status=503, only=''):
        rule = {'rate': rate, 'status': status, 'only': only}
        urllib.request.urlopen(self._faults, json.dumps(rule).encode()).read()

    @property
    def failed(self):
        """Requests that failed since the last call of fail."""
        return json.loads(urllib.request.urlopen(self._faults).read())['failed']


@pytest.fixture(scope='session')
def gcs_server():
    """The address of a stand-in for Google Cloud Storage, which this process and its children talk to from now on."""
    program = os.path.join(os.path.dirname(__file__), 'gcs_server.py')
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        os.environ['STORAGE_EMULATOR_HOST'] = os.environ['TENSORSTORE_GCS_HTTP_URL'] = url
        os.environ['GOOGLE_AUTH_TOKEN_FOR_TESTING'], os.environ['FSSPEC_GCS_TOKEN'] = 'none', 'anon'
        os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'  # asks for the kind of bucket by gRPC
        yield url
        server.kill()


@pytest.fixture
def store(gcs_server, request, monkeypatch):
    """A Store; waits between tries are short."""
    from rvm_jax.storage import files

    monkeypatch.setattr(files, 'FIRST_WAIT', 0.001)
    return Store(gcs_server, f'bucket-{abs(hash(request.node.nodeid))}')


@pytest.fixture(scope='session')
def make_workdir():
    """make_workdir(folder, steps): a workdir of the tiny recipe as training leaves it, without training."""

    def make(folder, steps=(10, 20)):
        import jax.numpy as jnp
        from flax import nnx

        from rvm_jax import config as configs
        from rvm_jax.models import architecture, build, param_names
        from rvm_jax.storage.run_lock import run_lock
        from rvm_jax.training.checkpoint import Checkpoints

        config = configs.load('configs/tiny.py', ['data.path=/private/clips/', 'steps=20'])
        model = build.abstract(architecture.from_config(config))
        shapes = param_names.named_shapes(model)
        with run_lock(folder), Checkpoints(folder) as checkpoints:
            for step in steps:
                named = {name: np.full(shape, step, np.float32) for name, shape in shapes.items()}
                params = nnx.to_pure_dict(nnx.state(param_names.from_named(model, named, 'test')))
                checkpoints.save(step, {'step': jnp.int32(step), 'params': params}, {})
        command = (
            '/home/me/bin/rvm train --config configs/tiny.py --workdir /home/me/w --config.data.path=/private/clips/'
        )
        written = {
            'config.json': {'version': '0.1.0', 'command': command, 'config': config.to_dict()},
            'data_manifest.json': {'sampler_version': 1, 'videos': 2, 'files': [['a.mp4', 1, 2], ['b.mp4', 3, 4]]},
            'data_report.json': {'clips': 160, 'failed': 3, 'too_short': 0, 'next_step': 20, 'reasons': {}},
        }
        for name, contents in written.items():
            (folder / name).write_text(json.dumps(contents))
        logged = [
            {'step': 10, 'loss': 0.5, 'clips_per_second': 2.0}, {'step': 10, 'eval_loss': 0.4, 'eval_copy_last': 0.7},
            {'step': 20, 'loss': 0.25, 'clips_per_second': 2.5}, {'step': 20, 'eval_loss': None},
        ]  # fmt: skip
        (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(entry)}\n' for entry in logged) + '{"step": 2')
        (folder / 'images').mkdir()
        (folder / 'images' / 'loss.png').write_bytes(b'')
        return folder

    return make


@pytest.fixture(scope='session')
def failing_reads(tmp_path_factory):
    """failing_reads(text, **how) -> environment in which reads of files with text in their path fail.

    how: read=number, share=percent, or start=number; code=errno; hang=1; count=path. See failing_reads.c.
    """
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        pytest.skip('no C compiler to make reads fail')
    library = tmp_path_factory.mktemp('shim') / 'failing_reads.so'
    source = os.path.join(os.path.dirname(__file__), 'failing_reads.c')
    subprocess.run([compiler, '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True)

    names = {'code': 'errno', 'start': 'from'}

    def environment(text, **how):
        settings = {f'FAIL_{names.get(name, name).upper()}': str(value) for name, value in how.items()}
        return {**os.environ, 'LD_PRELOAD': str(library), 'FAIL_FILES': text, **settings}

    return environment


def noise(name, shape):
    """Pseudo-random numbers in [-1, 1) from integers alone, so that they are the same everywhere."""
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x / 2.0**31 - 1).astype(np.float32).reshape(shape)


def weight(key, shape):
    """Around 1 for scales, else around 0, kernels by their inputs."""
    values = noise(key, shape)
    if key.endswith(('gamma', 'lambda1')) or ('norm' in key and key.endswith('weight')):
        return 1 + 0.3 * values
    if len(shape) < 2:
        return np.asarray(0.3 * values)
    if 'token' in key or 'pos' in key:
        return 0.7 * values
    return values * np.float32(2 / math.prod(shape[1:]) ** 0.5)


@dataclasses.dataclass
class Golden:
    """One encoder: its config.json ({} for an original checkpoint), weights by key, pixels, and what PyTorch gave."""

    config: dict
    arrays: dict
    pixels: np.ndarray
    expected: dict

    def write(self, path, *, config=None, arrays=None):
        """The encoder as a Hugging Face folder; returns its path as text."""
        path.mkdir(exist_ok=True)
        (path / 'config.json').write_text(json.dumps(self.config if config is None else config))
        import safetensors.numpy

        safetensors.numpy.save_file(self.arrays if arrays is None else arrays, path / 'model.safetensors')
        return str(path)


@pytest.fixture(scope='session')
def golden():
    """golden('dinov3/mlp') -> Golden; see tests/goldens/README.md for the names."""

    def read(name):
        family, _, case = name.partition('/')
        with np.load(GOLDENS / f'image_{family}.npz', allow_pickle=False) as file:
            found = {key.removeprefix(f'{case}/'): file[key] for key in file if key.startswith(f'{case}/')}
        facts = json.loads(str(found.pop('facts')))
        arrays = {key: weight(key, shape) for key, shape in facts['shapes'].items()}
        for key in [key for key in found if key.startswith('given/')]:
            arrays[key.removeprefix('given/')] = found.pop(key)
        if facts['first_row_zero']:
            arrays[facts['first_row_zero']][:, 0] = 0
        pixels = 1.5 * noise('pixels', (1, *facts['size'], 3))
        return Golden(facts['config'], arrays, pixels, found)

    return read


@pytest.fixture(scope='session')
def export(tmp_path_factory):
    """The export folder of a tiny RVM with weights of its own."""
    from flax import nnx

    from rvm_jax import pretrained
    from rvm_jax.models import architecture, build

    arch = dataclasses.replace(
        architecture.SIZES['tiny'], encoder_layers=2, core_layers=1, decoder_width=0, image_size=32
    )
    folder = str(tmp_path_factory.mktemp('model') / 'export')
    pretrained.save_pretrained(build.build(arch, rngs=nnx.Rngs(3)), folder)
    return folder

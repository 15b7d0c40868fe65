import importlib.metadata
import importlib.util
import sys

import jax
import pytest

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.errors import UserError
from rvm_jax.planning import aot, aot_process

LIBTPU = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu')


def planned(config):
    """What functions of a plan take first: a config and its Architecture."""
    return config, resolve(config)[0]


def tiny(*overrides):
    return configs.load('configs/tiny.py', overrides)


@pytest.fixture
def run(tmp_path):
    """run(code) -> (exit code, what it wrote) of a Python process, as the compiler's is run."""

    def start(code):
        with open(tmp_path / 'log', 'wb') as log:
            variables = aot_process.environment('tpu')
            ended = aot_process._run([sys.executable, '-c', code], log, 'something', variables)
        return ended, (tmp_path / 'log').read_text()

    return start


@pytest.mark.long
def test_the_step_that_is_compiled_is_that_of_training():
    config = tiny('mesh.data=2', 'mesh.fsdp=4', 'model.unroll=false')
    compiled = aot.trace_step(*planned(config), jax.devices()).lower().compile()
    found = aot.figures(compiled, 8)
    assert {'all-gather', 'reduce-scatter', 'all-reduce'} <= set(found['collectives'])
    assert found['loops_of_unknown_length'] == 0
    assert found['needs'] > found['arguments'] > 583_808 * 12 / 4 and found['traffic'] > found['arguments']


@pytest.mark.long
def test_data_parallel_training_gathers_nothing():
    found = aot.figures(aot.trace_step(*planned(tiny('model.unroll=false')), jax.devices()).lower().compile(), 8)
    assert set(found['collectives']) == {'all-reduce'}
    assert found['collectives']['all-reduce']['size'] == pytest.approx(583_808 * 4, rel=0.01)


@pytest.mark.parametrize(
    ('message', 'needs', 'has'),
    [
        ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.04G) exceeds '
         'available HBM (31.25G).', 40.04, 31.25),
        ('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.50G of '
         '15.75G hbm. Exceeded hbm capacity by 1.75G.', 17.5, 15.75),
    ],
)  # fmt: skip
def test_the_compilers_word_about_memory_is_read(message, needs, has):
    assert aot.read_shortage(message) == pytest.approx({'needs': needs * 2**30, 'has': has * 2**30})


def test_what_is_not_about_memory_is_no_shortage():
    assert aot.read_shortage('INTERNAL: something of (1.0G) exceeds available HBM (0.5G)') is None


def test_without_libtpu_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"--topology v6e:2x2: needs libtpu.*tpu/bin/pip install -e '.\[tpu\]'"):
        aot_process.compile_ahead(tiny(), 'v6e:2x2', 'tiny')


def test_without_cuda_packages_the_install_line_is_named(monkeypatch):
    monkeypatch.setattr(aot_process, 'LIBRARIES', ('nvidia-cudnn-cu13', 'a-package-that-is-not-there'))
    monkeypatch.setattr(aot_process, 'PLUGIN', ('jax',))
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda: [importlib.metadata.distribution('jax')])
    with pytest.raises(UserError, match=r'--topology h100:8: needs nvidia-cudnn-cu13, a-package') as caught:
        aot_process.compile_ahead(tiny(), 'h100:8', 'tiny')
    version = importlib.metadata.version('jax')
    assert f'python -m venv cuda && cuda/bin/pip install -e . jax=={version} ' in caught.value.fix


def test_flags_for_gpus_reach_their_compiler(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--mine=1')
    assert aot_process.environment('gpu')['XLA_FLAGS'] == '--mine=1'
    assert 'XLA_FLAGS' not in aot_process.environment('tpu')


def test_the_environment_is_the_childs_alone(run, monkeypatch):
    monkeypatch.setenv('LIBTPU_INIT_ARGS', '--mine=1')
    monkeypatch.delenv('TPU_SKIP_MDS_QUERY', raising=False)
    names = 'TPU_SKIP_MDS_QUERY', 'ALLOW_MULTIPLE_LIBTPU_LOAD', 'JAX_PLATFORMS', 'LIBTPU_INIT_ARGS'
    code, text = run(f'import os; print(*[os.environ[name] for name in {names}])')
    assert code == 0 and text.split()[:4] == ['1', '1', 'cpu', '--mine=1']
    assert 'TPU_SKIP_MDS_QUERY' not in aot_process.os.environ


def test_noise_goes_to_the_log_and_not_to_the_user(run, capfd):
    code, text = run('import sys; print("noise", file=sys.stderr); print("more")')
    assert code == 0 and set(text.split()) == {'noise', 'more'} and capfd.readouterr() == ('', '')


def test_a_crash_of_the_compiler_is_one_line(run, tmp_path):
    code, _ = run('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    with pytest.raises(UserError, match=r'--topology v6e:2x2: the compiler ended with SIGSEGV; try another batch'):
        aot_process._explain(code, tmp_path / 'log', 'v6e:2x2')


def test_a_mistake_of_ours_shows_its_traceback(run, tmp_path):
    code, _ = run('raise ZeroDivisionError("ours")')
    with pytest.raises(RuntimeError, match='ZeroDivisionError: ours'):
        aot_process._explain(code, tmp_path / 'log', 'v6e:2x2')


@LIBTPU
@pytest.mark.slow
def test_the_tiny_step_compiles_for_one_tpu_and_for_four():
    for topology, overrides in (('v6e:1x1', []), ('v6e:2x2', ['mesh.data=1', 'mesh.fsdp=4'])):
        found = aot_process.compile_ahead(tiny(*overrides), topology, topology)['compiled']
        assert found['device_kind'] == 'TPU v6 lite' and found['needs'] < 2**30
        assert found['loops_of_unknown_length'] == 0
        assert bool(found['collectives']) == (found['devices'] > 1)
    bytes_of = {kind: one['size'] for kind, one in found['collectives'].items()}
    assert bytes_of['all-gather'] > 4 * 583_808  # every weight, some of them twice
    # The rest, and kernels of which a part is no whole tile, are summed whole.
    assert bytes_of['all-reduce'] < 0.1 * bytes_of['reduce-scatter']


@LIBTPU
@pytest.mark.slow
def test_a_slice_unknown_to_libtpu_is_named_with_examples():
    with pytest.raises(
        UserError, match=r'--topology v7e:2x2: libtpu does not know this slice .*; give one such as v6e:16x16'
    ):
        aot_process.compile_ahead(tiny(), 'v7e:2x2', 'tiny')


@LIBTPU
@pytest.mark.slow
def test_too_large_a_batch_is_a_shortage():
    config = configs.load('configs/rvm_s.py', ['batch_size=1024', 'model.remat=none'])
    found = aot_process.compile_ahead(config, 'v6e:1x1', 's')['shortage']
    assert found['needs'] > found['has'] == 31.25 * 2**30

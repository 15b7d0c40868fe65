"""Fused attention against plain attention, and what training does with a kernel that is wrong on purpose.

The kernel for TPUs, interpreted on a CPU, stands for one that a device has.
"""

import functools
import json
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from rvm_jax import config as configs
from rvm_jax import pretrained
from rvm_jax.distributed.process_group import ALONE
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, attention
from rvm_jax.models.layers import PRECISIONS, Execution
from rvm_jax.models.pallas_attention import pallas_attention
from rvm_jax.training import attention_check, initialize
from rvm_jax.training.attention_check import Shape
from rvm_jax.training.loop import train

SHAPES = [Shape(13, 13, 2, 16), Shape(64, 257, 2, 32)]
FUSED = Execution(PRECISIONS['bf16'], 'pallas', platform='cpu')


@pytest.fixture
def fused_on_cpu(monkeypatch, tmp_path):
    """Have 'auto' take the kernel on this CPU; the folder where verdicts are kept, apart from those of other tests."""
    monkeypatch.setitem(attention.FUSED, 'cpu', ('pallas',))
    monkeypatch.setattr(attention, 'LONG_KEYS', 1)
    folder = tmp_path / 'compiled'
    monkeypatch.setattr(initialize, 'keep_compiled', lambda *_: str(folder))
    return folder


@pytest.fixture
def use_kernel(monkeypatch):
    """use_kernel(function): compute 'pallas' by it from now on."""

    def use(kernel):
        monkeypatch.setattr(attention, 'pallas_attention', kernel)
        jax.clear_caches()

    yield use
    monkeypatch.undo()
    jax.clear_caches()


def scaled(*arguments):
    return pallas_attention(*arguments) * jnp.bfloat16(1.03)


def without_the_last_key(query, key, value, *sizes):
    return pallas_attention(query, key[:, :-1], value[:, :-1], *sizes)


def not_a_number(query, key, value, *sizes):
    return pallas_attention(query, key, value, *sizes).at[:, -1].set(jnp.nan)


def raising(*arguments):
    raise NotImplementedError('Unsupported sequence length Q 13, KV 13')


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def wrong_going_back(*arguments):
    return pallas_attention(*arguments)


def _forward(*arguments):
    return wrong_going_back(*arguments), arguments[:3]


def _backward(head_dim, interpret, saved, grad):
    query, key, value = jax.vjp(lambda *x: pallas_attention(*x, head_dim, interpret), *saved)[1](grad)
    return query, key.at[:, -1].set(0), value


wrong_going_back.defvjp(_forward, _backward)


def test_a_correct_kernel_differs_by_rounding_alone():
    is_right, words = attention_check.judge(FUSED, SHAPES, jax.devices()[0])
    assert is_right
    assert re.search(r'by 0\.\d+% \(plain attention in bfloat16: 0\.\d+%\), at', words)


@pytest.mark.parametrize(
    ('kernel', 'words'),
    [
        (scaled, r'in its (values|gradients of \w+) by 3\.\d+% \(plain attention in bfloat16: 0\.\d+%\), at'),
        (without_the_last_key, r'in its gradients of queries by \d\d\.\d+%'),
        (wrong_going_back, r'in its gradients of keys by \d+\.\d+%.* at 13 queries x 13 keys, 2 heads of 16'),
        (not_a_number, 'by nan%'),
        (raising, r'fails at 13 queries x 13 keys, 2 heads of 16 \(NotImplementedError: Unsupported sequence length'),
    ],
)
def test_a_wrong_kernel_is_found_with_what_is_wrong_and_where(use_kernel, kernel, words):
    use_kernel(kernel)
    verdict = attention_check.judge(FUSED, SHAPES, jax.devices()[0])
    assert not verdict.is_right
    assert re.search(words, verdict.words)


@pytest.mark.parametrize('size', ['s', 'l'])
def test_shapes_are_those_that_auto_gives_to_the_kernel(size):
    config = configs.load('configs/rvm_s.py', [f'model.size={size}'])
    arch = architecture.from_config(config)
    on_gpu, on_tpu, on_cpu = (
        set(attention_check.shapes(config, arch, Execution(PRECISIONS['bf16'], platform=platform)))
        for platform in ('gpu', 'tpu', 'cpu')
    )
    heads = {'s': 6, 'l': 16}[size]
    assert {Shape(257, 257, heads, 64), Shape(13, 13, heads, 64), Shape(1028, 1028, 16, 32)} <= on_gpu
    assert on_tpu == {shape for shape in on_gpu if shape.keys >= attention.LONG_KEYS}
    assert not on_cpu


def recipe(videos, *overrides):
    small = ['steps=2', 'batch_size=8', 'data.image_size=16', 'data.num_workers=0', 'log.images_every=0']
    return configs.load(
        'configs/tiny.py',
        ['model.precision=bf16', 'model.unroll=false', 'log.every=1', f'data.path={videos}', *small, *overrides],
    )


def choose(config, folder):
    mesh = jax.make_mesh((8, 1), ('data', 'fsdp'))
    return attention_check.choose(config, architecture.from_config(config), mesh, ALONE, str(folder))


@pytest.mark.long
def test_training_falls_back_from_a_wrong_kernel_and_remembers(
    fused_on_cpu, use_kernel, videos, tmp_path, capfd, monkeypatch
):
    use_kernel(scaled)
    judge = attention_check.judge

    def judge_and_break(*arguments):  # a step that takes the kernel after all does not come through
        verdict = judge(*arguments)
        use_kernel(raising)
        return verdict

    monkeypatch.setattr(attention_check, 'judge', judge_and_break)
    for is_first in (True, False):
        capfd.readouterr()
        train(recipe(videos), str(tmp_path / 'run'), pretrained.load)
        said = capfd.readouterr().err
        assert said.count('training with model.attention=xla instead, which is slower') == 1
        assert 'fused attention (pallas) on cpu differs from float32 in its ' in said
        assert ('comparing fused attention' in said) == is_first
    entries = map(json.loads, (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines())
    assert [entry['step'] for entry in entries if 'loss' in entry] == [1, 2]
    with pytest.raises(UserError, match=r'attention=pallas: on cpu differs .*; take auto or xla'):
        choose(recipe(videos, 'model.attention=pallas'), fused_on_cpu)


def test_a_verdict_counts_for_its_versions_alone(fused_on_cpu, use_kernel, videos, monkeypatch, capfd):
    config = recipe(videos)
    assert choose(config, fused_on_cpu) == 'auto'
    use_kernel(raising)
    assert choose(config, fused_on_cpu) == 'auto'  # known to be right, so not compared again
    monkeypatch.setattr(jax, '__version__', '99.0')
    assert choose(config, fused_on_cpu) == 'xla'
    assert 'fails at' in capfd.readouterr().err
    for path in fused_on_cpu.glob('attention_*.json'):
        path.write_text('{"wrong": ')  # as a full disk leaves it
    use_kernel(pallas_attention)
    assert choose(config, fused_on_cpu) == 'auto'


def test_the_next_kernel_is_taken_before_plain_attention(fused_on_cpu, use_kernel, videos, monkeypatch):
    monkeypatch.setitem(attention.FUSED, 'cpu', ('pallas', 'by_head'))
    use_kernel(raising)
    assert choose(recipe(videos), fused_on_cpu) == 'by_head'


def test_other_precisions_are_not_compared(fused_on_cpu, use_kernel, videos):
    use_kernel(raising)
    for precision in ('float32', 'official_mixed'):
        config = recipe(videos, f'model.precision={precision}')
        assert choose(config, fused_on_cpu) == 'auto'


PROCESS = """
import sys, types
import jax
from rvm_jax import config as configs
from rvm_jax.models import architecture, attention
from rvm_jax.training import attention_check, sharding
from rvm_jax.distributed.connect import connect

attention.FUSED['cpu'], attention.LONG_KEYS = ('pallas',), 1
attention_check.shapes = lambda *_: [attention_check.Shape(13, 13, 2, 16)]
correct = attention.pallas_attention
with connect(types.SimpleNamespace(start_timeout=60, heartbeat=20, step_timeout=60)) as hosts:
    if hosts.index == 1:
        attention.pallas_attention = lambda *arguments: correct(*arguments) * 1.03
    config = configs.load('configs/tiny.py', ['model.precision=bf16', 'data.image_size=16'])
    for _ in range(2):
        print(attention_check.choose(config, None, sharding.make_mesh(config.mesh), hosts, sys.argv[1]))
"""


def test_processes_choose_alike_where_one_device_is_wrong(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = os.environ | {'RVM_COORDINATOR': f'127.0.0.1:{port}', 'RVM_NUM_PROCESSES': '2'}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, tmp_path], env=env | {'RVM_PROCESS_ID': str(index)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in ended:
        assert [line for line in out.splitlines() if line in ('auto', 'xla')] == ['xla', 'xla'], err
    said = ended[0][1]
    assert said.count('comparing fused attention') == 1
    assert said.count('(pallas) on cpu (process 1) differs from float32') == 1
    assert said.count('(pallas) on cpu differs from float32') == 1  # known of this kind of device
    assert 'attention' not in ended[1][1]

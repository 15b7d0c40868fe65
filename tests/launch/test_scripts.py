import os
import pathlib
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted(REPO.glob('launch/**/*.sh'))
STANDINS = sorted(path for path in REPO.glob('tests/launch/standins/**/*') if path.is_file())


def flags(kind):
    """Every flag of every named set of this kind."""
    text = (REPO / 'launch' / 'flags.sh').read_text().partition(f'{kind}_flags()')[2].partition('\n}')[0]
    return re.findall(r'--xla_[a-z_0-9]+=\w+', text)


def test_shellcheck_finds_nothing():
    shell = [REPO / 'tests' / 'slurm' / 'install.sh']
    shell += [path for path in STANDINS if path.read_text().startswith('#!/usr/bin/env bash')]
    shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
    done = subprocess.run(
        [shellcheck, '--external-sources', *SCRIPTS, *shell], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_a_script_stays_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) < 300


def test_the_compiler_knows_every_gpu_flag():
    env = {**os.environ, 'XLA_FLAGS': ' '.join(flags('gpu')), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', 'import jax; jax.devices()'], env=env, capture_output=True, text=True)
    assert len(flags('gpu')) > 5
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('script', 'words'),
    [
        ('tpu.sh', ['create', '--name rvm', '--zones a,b', '--accelerator v6e-8', '--create-flag --labels=a=b']),
        ('gke.sh', ['train', '--name rvm', '--accelerator v6e-8', '--image pkg.dev/p/rvm:1', '--env A=b=c']),
    ],
)
def test_a_value_may_follow_an_equals_sign(script, words):
    run = ['--', 'train', '--config', 'configs/rvm_s.py', '--workdir', 'gs://bucket/run', '--config.steps=3']

    def shown(separator):
        options = [part for word in words for part in word.replace(' ', separator, 1).split(' ')]
        command = ['bash', REPO / 'launch' / script, *options, '--dry-run', *run]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return re.sub(r'\d{8}T\d{6}Z-\d+', 'START', done.stdout)

    assert shown('=') == shown(' ') != ''

"""The runner of benchmarks/gpu.sh: its stages' ends, and all of it once on a small model."""

import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
from gpu import Stage, describe, reason, run, run_stage
from gpu_stages import RECIPES, STAGES, doctor_row, recipe_of

from rvm_jax import config as configs

SCRIPT = Path(gpu.__file__).with_name('gpu.sh')
TRACEBACK = """Traceback (most recent call last):
  File "gpu_stages.py", line 1, in <module>
jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 90 bytes.
--------------------
For simplicity, JAX has removed its internal frames from the traceback of the following exception.
"""


def test_the_reason_of_a_failure_is_the_line_with_the_error():
    assert reason(TRACEBACK).startswith('jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED')
    assert reason('a warning\nthe loss is nan\n\n') == 'the loss is nan'
    assert describe(1, 60, '') == 'failed: exit code 1'
    assert describe(0, 60, TRACEBACK) == ''


def test_a_stage_that_fails_is_named_with_the_reason(tmp_path):
    outcome = run_stage(Stage(('train', 'none', 'ours'), 60), 'tiny', tmp_path, 60)
    assert outcome.problem == "failed: KeyError: 'none'"
    assert outcome.rows == []


def test_a_stage_that_takes_too_long_is_stopped_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'FEWEST', 0)
    assert run_stage(Stage(('train', 'tiny', 'ours'), 60), 'tiny', tmp_path, 1).problem == 'out of time after 1 s'
    assert describe(124, 90, TRACEBACK) == describe(137, 90, TRACEBACK) == 'out of time after 90 s'


def test_without_time_no_stage_starts_and_the_exit_code_says_so(tmp_path, capsys):
    assert run(gpu.FULL, 'full', 10, tmp_path) == 1
    figures = (tmp_path / 'figures.md').read_text()
    assert figures.count('**not started: no time was left**') == len(gpu.FULL)
    assert figures in capsys.readouterr().out


def test_full_sizes_are_refused_without_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert run(gpu.FULL[:2], 'full', 300, tmp_path) == 2
    assert 'no GPU: JAX' in capsys.readouterr().out


@pytest.mark.parametrize('sizes', gpu.STAGES)
def test_stages_are_those_that_there_are_and_their_recipes_load(sizes):
    for stage in gpu.STAGES[sizes]:
        assert stage.arguments[0] in STAGES
        if stage.arguments[1:]:
            config = configs.load(*recipe_of(sizes, stage.arguments[1]))
            assert config.batch_size == RECIPES[sizes][stage.arguments[1]][1]
            assert config.model.precision == 'bf16'


def test_doctor_checks_have_a_color_a_fix_and_figures():
    disk = {'check': 'disk', 'color': 'yellow', 'text': 'slow', 'fix': 'take another', 'values': {'rate': 1.0}}
    assert doctor_row(disk) == {'what': 'doctor: disk', 'note': 'yellow: slow → take another'}
    values = {'clips': 800.0, 'step': 0.04, 'mfu': 0.4, 'roofline': None, 'batch_size': 32}
    steps = {'check': 'steps', 'color': 'green', 'text': 'fine', 'fix': '', 'values': values}
    assert doctor_row(steps) == {
        'what': 'doctor: steps', 'note': 'green: fine', 'rate': 800.0, 'unit': 'clips', 'ms': 40.0, 'mfu': 0.4,
        'roofline': None,
    }  # fmt: skip
    failed = {'check': 'steps', 'color': 'red', 'text': 'XlaRuntimeError: no', 'fix': 'see', 'values': {}}
    assert doctor_row(failed) == {'what': 'doctor: steps', 'note': 'red: XlaRuntimeError: no → see'}


@pytest.mark.slow
def test_the_script_measures_a_small_model_on_a_cpu(tmp_path):
    env = os.environ | {'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'}
    command = [SCRIPT, '--sizes', 'tiny', '--seconds', '1800', '--output', tmp_path]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    figures = (tmp_path / 'figures.md').read_text()
    assert done.returncode == 0, figures
    for row in ('tiny, ours', 'tiny, released', 'frozen_tiny, ours', 'frozen_tiny, released', 'stream, tiny', 'input,'):
        assert f'| {row}' in figures

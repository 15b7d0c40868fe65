import os
import signal
import subprocess
import sys
import time

import pytest

from rvm_jax import cli, demo, pretrained
from rvm_jax.probing.demo import demo_suite
from rvm_jax.synthetic import demo_videos


@pytest.mark.long
def test_the_demo_writes_model_and_report_and_prints_losses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_videos, 'NUM_TRAIN', 8)
    monkeypatch.setattr(demo_videos, 'NUM_HELD_OUT', 8)
    monkeypatch.setattr(demo, 'FRAMES_SHOWN', 8)
    monkeypatch.setattr(demo_suite, 'NOISE_TRAIN', 16)
    monkeypatch.setattr(demo_suite, 'NOISE_HELD_OUT', 3)
    # The numbers of tests/training/conftest.py, so that the program compiled there can be used here.
    small = ['steps=5', 'optim.warmup=0.2', 'data.image_size=16', 'data.num_workers=0', 'model.unroll=false']
    small += ['log.eval_clips=8', 'log.every=1']
    flags = [f'--config.{override}' for override in small]
    assert cli.run('demo', ['--output', str(tmp_path / 'demo'), *flags]) == 0
    assert pretrained.load(str(tmp_path / 'demo' / 'export')).image_size == 16
    card = (tmp_path / 'demo' / 'export' / 'README.md').read_text()
    assert '5 of 5 steps' in card and 'Held-out loss' in card
    page = (tmp_path / 'demo' / 'report.html').read_text()
    assert page.count('data:image/png') >= 5 and 'The noise square' in page
    printed = capsys.readouterr().out
    assert (
        'copy the last source frame' in printed
        and 'noise square, image encoder' in printed
        and os.path.join('demo', 'report.html') in printed
    )


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_keeps_what_is_rendered(tmp_path, number, code):
    process = start_rendering(tmp_path)
    os.killpg(process.pid, number)
    said = process.communicate()[1]
    assert process.returncode == code and 'Traceback' not in said
    assert 'videos are rendered; the same command line resumes from there' in said
    wait_until_gone(process.pid)


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    process = start_rendering(tmp_path)
    process.kill()
    process.wait()
    wait_until_gone(process.pid)


def start_rendering(folder):
    """A demo in a process group of its own that has rendered its first video."""
    line = [sys.executable, '-m', 'rvm_jax.demo', '--output', str(folder / 'demo')]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(folder.rglob('clip_*.mp4')):
        time.sleep(0.05)
    return process


def wait_until_gone(group):
    """Return once no process of a group is left; a minute is more than enough."""
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.killpg(group, 0)
            time.sleep(0.1)

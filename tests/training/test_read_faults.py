"""A real run whose videos lie on a disk that fails."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest

from rvm_jax.synthetic.synthetic_videos import write_videos

SMALL = ['model.unroll=false', 'data.image_size=16', 'batch_size=4', 'log.every=1', 'log.images_every=0', 'steps=500']


@pytest.mark.long
def test_reads_that_fail_are_tried_again_then_the_run_ends_saved(tmp_path, failing_reads):
    folder, workdir = tmp_path / 'videos', tmp_path / 'run'
    write_videos(folder, 8, seed=0, num_frames=24, height=24, width=24, num_workers=0)
    flags = [
        f'--config.{setting}' for setting in (*SMALL, f'data.path={folder}', 'data.num_workers=1', 'data.prepare_gb=0')
    ]
    command = [sys.executable, '-m', 'rvm_jax.train', '--config', 'configs/tiny.py', '--workdir', str(workdir), *flags]
    environment = failing_reads(str(folder), share=8, start=150, code=errno.ETIMEDOUT)
    environment['XLA_FLAGS'] = ' '.join(flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 75, done.stderr
    assert re.search(r'clip_\d+\.mp4: does not answer \(Connection timed out, 6 times\); start again', done.stderr)
    log = [json.loads(line) for line in open(workdir / 'metrics.jsonl', encoding='utf-8')]
    assert log[-1]['step'] >= 3 and log[-1]['skipped_videos'] == 0
    assert log[-1]['read_retries'] >= 1
    assert os.listdir(workdir / 'checkpoints') == [str(log[-1]['step'])]

"""Whole runs on several processes, started by launch/local.sh: the result is that of one process."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch' / 'local.sh'
SMALL = {
    'model.unroll': 'false', 'data.image_size': 16, 'data.num_source': 2, 'data.num_target': 1, 'data.num_workers': 0,
    'batch_size': 8, 'steps': 8, 'log.every': 1, 'log.images_every': 0, 'checkpoint.every': 2, 'hosts.heartbeat': 20,
    'mesh.fsdp': 1,
}  # fmt: skip


@pytest.fixture(scope='module')
def some_broken(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    for path in videos.glob('*.mp4'):
        shutil.copy(path, folder)
    (folder / 'broken.mp4').write_bytes(b'not a video')
    return str(folder)


def start(processes, videos, workdir, *flags, devices=1, **overrides):
    """Start `rvm train` on that many processes."""
    config = SMALL | {'data.path': videos} | overrides
    command = [LAUNCH, '--processes', processes, '--devices', devices, '--grace', 60, '--', 'train']
    command += ['--config', 'configs/tiny.py', '--workdir', workdir, *flags]
    command += [f'--config.{key}={value}' for key, value in config.items()]
    quick = ' '.join(flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag)
    path = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
    return subprocess.Popen(
        list(map(str, command)), env=os.environ | {'XLA_FLAGS': quick, 'PATH': path}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def end(process):
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


def wait_for_step(process, step):
    """What the processes print until they have done this step."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(f'step {step}/'):
            return ''.join(said)
    raise AssertionError(f'the run ended before step {step}: {"".join(said)}')


def process_id(workdir, index):
    """The pid of the index-th process that trains in workdir."""
    for folder in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            command, env = (folder / 'cmdline').read_bytes(), (folder / 'environ').read_bytes().split(b'\0')
        except OSError:
            continue
        if os.fsencode(workdir) in command and f'RVM_PROCESS_ID={index}'.encode() in env:
            return int(folder.name)
    raise AssertionError(f'no process {index} trains in {workdir}')


def losses(workdir):
    entries = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {entry['step']: entry['loss'] for entry in entries}


def report(workdir):
    return json.loads((workdir / 'data_report.json').read_text())


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


@pytest.mark.slow
@pytest.mark.fault('F1b', 'SIGTERM to one of four processes, then a bit flipped, then two processes and SIGHUP to one')
def test_four_stop_together_and_two_resume(some_broken, tmp_path, seen):
    reference, shared = tmp_path / 'reference', tmp_path / 'shared'
    code, output = end(start(1, some_broken, reference, devices=4))
    assert code == 0, output

    four = start(4, some_broken, shared)
    wait_for_step(four, 3)
    os.kill(process_id(shared, 2), signal.SIGTERM)
    code, output = end(four)
    assert code == 75, output
    saved = steps(shared)[-1]
    assert output.count(f'SIGTERM at process 2: saved at step {saved}; the same command line resumes') == 4
    assert set(losses(shared)) == set(range(1, saved + 1))

    array = max((shared / 'checkpoints' / str(saved) / 'state').rglob('d/*'), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1] + b'?')  # damage, which every process must find
    before = steps(shared)[-2]
    two = start(2, some_broken, shared, devices=2)
    output = wait_for_step(two, before + 1)
    assert f'step {saved} is damaged and not used' in output
    assert output.count(f'resuming at step {before}') == 1
    os.kill(process_id(shared, 0), signal.SIGHUP)  # its terminal is closed
    code, output = end(two)
    assert code == 75, output
    again = steps(shared)[-1]
    assert output.count(f'SIGHUP at process 0: saved at step {again}; the same command line resumes') == 2
    code, output = end(start(2, some_broken, shared, devices=2))
    assert code == 0, output
    assert losses(shared) == pytest.approx(losses(reference), rel=1e-4)
    assert report(shared) == report(reference)
    assert report(shared)['failed'] > 0
    assert (shared / 'images' / 'reconstruction_00000008.png').exists()
    seen('saved by all, exit 75; the step before is used', saved - before)


@pytest.mark.fault('F15', 'processes with different configs')
def test_processes_with_other_settings_are_refused(videos, tmp_path, seen):
    rvm = tmp_path / 'rvm'  # a host with another recipe
    real = os.path.join(os.path.dirname(sys.executable), 'rvm')
    rvm.write_text(f'#!/bin/sh\nexec {real} "$@" --config.optim.peak_lr=$((1 + RVM_PROCESS_ID / 2))e-3\n')
    rvm.chmod(0o755)
    script = tmp_path / 'launch' / 'local.sh'
    script.parent.mkdir()
    script.write_bytes(LAUNCH.read_bytes())
    env = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    command = ['bash', script, '--processes', '3', '--', 'train', '--config', 'configs/tiny.py']
    command += ['--workdir', tmp_path / 'run', f'--config.data.path={videos}']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count('process 2 has config.optim.peak_lr 0.002, the others 0.001') == 3
    assert not (tmp_path / 'run').exists()
    seen('exit 2, names the process and the difference')

import shlex
import sys
from itertools import islice

import pytest

NODES = ('--nodes', '2', '--gpus-per-node', '2', '--partition', 'gpu', '--time', '24:00:00')


@pytest.fixture
def slurm(launcher):
    """A checkout with its .venv, and a workdir that all nodes share."""
    binaries = launcher.checkout / '.venv' / 'bin'
    binaries.mkdir(parents=True)
    (binaries / 'rvm').symlink_to(launcher.standins / 'host' / 'rvm')
    write_python(launcher, f'exec {sys.executable} "$@"')
    workdir = launcher.root / 'run'
    workdir.mkdir()
    (workdir / 'checkpoints').symlink_to(launcher.root / 'bucket')
    launcher.training = ('--', 'train', '--config', 'configs/rvm_l.py', '--workdir', str(workdir))
    launcher.submit = lambda *options: launcher.run('slurm.sh', *NODES, *options, *launcher.training)
    return launcher


def write_python(slurm, body):
    python = slurm.checkout / '.venv' / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\n{body}\n')
    python.chmod(0o755)


def starts(slurm):
    return len((slurm.root / 'starts.0').read_text().split())


@pytest.mark.parametrize('command', ['train', 'doctor'])
def test_one_task_per_gpu_runs_the_same_command(slurm, command):
    slurm.plan(runs='0 0 0 0\n')
    slurm.training = ('--', command, *slurm.training[2:])
    slurm.training += ("--config.data.path=/data/it's a clip",)
    done = slurm.submit('--flags', 'overlap')
    assert done.returncode == 0, done.stderr
    (call,) = slurm.calls('sbatch')
    assert {'--nodes=2', '--ntasks-per-node=2', '--gpus-per-node=2', '--partition=gpu', '--time=24:00:00'} <= set(call)
    assert {'--signal=TERM@120', '--requeue'} <= set(call)
    for task in range(4):
        folder, distributed, _, *arguments = (slurm.root / f'started.1.{task}').read_text().splitlines()
        assert (folder, distributed) == (str(slurm.checkout), 'auto')
        assert arguments == list(slurm.training[1:])


def test_a_job_that_stops_early_is_queued_again(slurm):
    slurm.plan(runs='75@10 75 75 75\n137@20 75 75 75\n0@30 0 0 0\n')
    done = slurm.submit()
    assert done.returncode == 0, done.stderr
    assert starts(slurm) == 3


@pytest.mark.parametrize('code', [2, 65, 76, 130])
def test_a_final_error_names_the_task_and_is_not_queued_again(slurm, code):
    slurm.plan(runs=f'75@10 75 {code} 75\n')
    done = slurm.submit()
    assert done.returncode == code
    assert f'task 2 ended with exit code {code}' in done.stdout
    assert starts(slurm) == 1


def test_a_program_that_breaks_does_not_queue_again(slurm):
    slurm.plan(runs='1 1 1 1\n')
    assert slurm.submit().returncode == 1
    assert starts(slurm) == 1


def test_starts_without_a_new_checkpoint_are_bounded(slurm):
    slurm.env['RVM_LAUNCH_RETRIES'] = '2'
    slurm.plan(runs='75@10 75 75 75\n' * 2 + '75@20 75 75 75\n' * 9)
    done = slurm.submit()
    assert done.returncode == 75
    assert '2 starts without a new checkpoint' in done.stdout
    assert starts(slurm) == 5


def test_starts_with_unlisted_checkpoints_do_not_count(slurm):
    slurm.env['RVM_LAUNCH_RETRIES'] = '2'
    write_python(slurm, 'echo "the bucket does not answer"; exit 1')
    slurm.plan(runs='75 75 75 75\n' * 4 + '0 0 0 0\n')
    done = slurm.submit()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('cannot be listed') == 4
    assert starts(slurm) == 5


def test_stop_saves_and_the_job_does_not_queue_again(slurm):
    slurm.plan(runs='hang@10 hang hang hang\n')
    process = slurm.start('slurm.sh', *NODES, *slurm.training)
    started = (line for line in process.stdout if 'start 1' in line)
    assert len(list(islice(started, 4))) == 4
    done = slurm.run('slurm.sh', 'stop', '7')
    assert done.returncode == 0, done.stderr
    stdout = process.communicate(timeout=60)[0]
    assert process.returncode == 75
    assert stdout.count('saved on SIGTERM') == 4
    assert starts(slurm) == 1


def test_stop_and_status_pass_on_the_job(slurm):
    assert slurm.run('slurm.sh', 'status', '7').stdout.startswith('7 rvm RUNNING')
    (slurm.checkout / 'runs' / 'slurm').mkdir(parents=True)
    done = slurm.run('slurm.sh', 'stop', '8')
    assert done.returncode == 2
    assert 'job 8 could not be asked' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--nodes', '2', '--', 'train', '--workdir', 'w'), "--gpus-per-node ''"),
        (('--gpus-per-node', '2', '--', 'train', '--workdir', 'w'), "--nodes ''"),
        ((*NODES, '--', 'train', '--config', 'c'), '--workdir is missing'),
        (NODES, 'the command to run is missing'),
        ((*NODES, '--flags', 'vmem'), '--flags vmem: unknown set of flags'),
        (('stop',), 'which job?'),
        (('--gpus', '2'), '--gpus: unknown option'),
    ],
)
def test_a_mistake_is_one_line_and_submits_nothing(slurm, arguments, message):
    done = slurm.run('slurm.sh', *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not slurm.calls()


def test_a_dry_run_prints_commands_that_can_be_pasted(slurm):
    slurm.training += ('--config.data.path=/data/two words',)
    shown = slurm.submit('--dry-run').stdout.splitlines()
    assert not slurm.calls() and not (slurm.checkout / 'runs').exists()
    slurm.plan(runs='0 0 0 0\n')
    slurm.submit()
    assert [shlex.split(line) for line in shown if line.startswith('sbatch')] == slurm.calls('sbatch')

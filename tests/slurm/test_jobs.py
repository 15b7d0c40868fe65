"""launch/slurm.sh on a real Slurm, with a stand-in for `rvm`: what it submits, and what becomes of a job."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / 'programs' / 'rvm.py'
pytestmark = pytest.mark.slurm


@pytest.fixture(scope='module', autouse=True)
def deaf(make_launcher, tmp_path_factory):
    """A job that does not end when it is asked to, before all other tests: its time limit takes two minutes."""
    folder = tmp_path_factory.mktemp('deaf')
    launcher = make_launcher(folder, [sys.executable, PROGRAM, folder])
    launcher.plan('wait:deaf@10 wait:deaf', '0 0')
    (folder / 'run' / 'checkpoints').mkdir(parents=True)
    return launcher.submit('--time=2', '--grace=30')


def test_every_process_gets_the_command_and_the_setup(launcher):
    launcher.plan('0 0 0 0')
    (launcher.folder / 'setup.sh').write_text('export SETTING="from $UNKNOWN the file"; cd /; false; true\n')
    training = (
        'train',
        '--config',
        'configs/tiny.py',
        '--workdir',
        launcher.folder / 'run',
        "--config.data.path=it's a clip",
    )
    job = launcher.submit(
        '--nodes=2', '--setup', 'setup.sh', '--flags=overlap', '--sbatch', '--mem=100', '--sbatch=--comment=ours',
        training=training,
    )  # fmt: skip
    assert job.end() == ('COMPLETED', 0), job.log
    for task in range(4):
        distributed, setting, flags, folder, *words = (launcher.folder / f'started.1.{task}').read_text().splitlines()
        assert (distributed, setting, folder) == ('auto', 'from  the file', str(launcher.checkout))
        assert flags.split() == ['--xla_gpu_enable_latency_hiding_scheduler=true']
        assert words == list(map(str, training))
    assert job.field('MinMemoryNode') == '100M'
    assert job.field('Comment') == 'ours'
    assert job.field('TresPerNode') == 'gres:gpu:2'


@pytest.mark.parametrize('options', [['--gpus-per-node', 'h100:2'], ['--sbatch', '--gres=gpu:h100:2']])
def test_gpus_can_have_a_type(launcher, options):
    launcher.plan('0 0')
    job = launcher.submit(*options)
    assert job.end() == ('COMPLETED', 0), job.log
    assert job.field('TresPerNode') == 'gres:gpu:h100:2'


@pytest.mark.parametrize('flags', [None, '', ' '])
def test_no_job_sees_blank_compiler_flags(launcher, flags):
    launcher.plan('0 0')
    job = launcher.submit(**({} if flags is None else {'XLA_FLAGS': flags}))
    assert job.end() == ('COMPLETED', 0), job.log
    assert (launcher.folder / 'started.1.0').read_text().splitlines()[2] == ''


def test_a_site_that_hands_no_environment_on(launcher):
    launcher.plan('0 0')
    job = launcher.submit(SBATCH_EXPORT='NONE')
    assert job.end() == ('COMPLETED', 0), job.log
    assert (launcher.folder / 'started.1.1').read_text().startswith('auto\n')


def test_the_reply_names_the_job_and_its_log(launcher):
    launcher.plan('0 0')
    job = launcher.submit('--logs', 'my logs', cwd=launcher.folder)
    path = launcher.folder / 'my logs' / f'{job.number}.log'
    assert f'the log of job {job.number} is {path}' in job.reply
    job.end()
    assert 'task 1 start 1' in path.read_text()


def test_a_job_that_stops_early_is_queued_again(launcher):
    launcher.plan('75@10 75', '137@20 255', '0@30 0')
    job = launcher.submit('--logs=logs')
    assert job.end() == ('COMPLETED', 0), job.log
    assert job.field('Restarts') == '2'


def test_final_errors_name_the_task_and_queue_nothing_again(launcher):
    jobs = {}
    for code in (2, 65, 76, 127, 130):
        launcher.plan(f'75@10 {code}')
        jobs[code] = launcher.submit()
        jobs[code].wait_for('task 1 start 1')
    for code, job in jobs.items():
        assert job.end() == ('FAILED', code)
        assert f'task 1 ended with exit code {code}; starting again does not help' in job.log


def test_a_program_that_breaks_is_not_queued_again(launcher):
    launcher.plan('1 1')
    assert launcher.submit().end() == ('FAILED', 1)


def test_starts_without_a_new_checkpoint_are_bounded(launcher):
    launcher.plan('75@10 75', '75 75', '75 75')
    job = launcher.submit(RVM_LAUNCH_RETRIES='2')
    assert job.end() == ('FAILED', 75), job.log
    assert '2 starts without a new checkpoint; giving up' in job.log
    assert job.field('Restarts') == '2'


def test_starts_with_unlisted_checkpoints_do_not_count(launcher):
    (launcher.checkout / '.venv' / 'bin' / 'python').write_text('#!/bin/sh\necho the bucket does not answer; exit 1\n')
    launcher.plan('75 75', '0 0')
    job = launcher.submit(RVM_LAUNCH_RETRIES='1')
    assert job.end() == ('COMPLETED', 0), job.log
    assert job.log.count('cannot be listed') == 1


def test_stop_saves_and_the_job_is_not_queued_again(launcher):
    launcher.plan('wait@10 wait:255')  # also where a task does not end as it should
    job = launcher.submit('--logs=logs')
    job.wait_for('task 0 start 1')
    done = launcher.run('stop', job.number)  # from elsewhere: --logs is not given
    assert done.returncode == 0, done.stderr
    assert f'job {job.number} has been asked to save and end' in done.stderr
    assert job.end() == ('FAILED', 75), job.log
    assert 'stopped early, and the job does not go back into the queue: launch/slurm.sh stop' in job.log
    said = launcher.run('status', job.number).stdout
    assert 'FAILED' in said and 'exit code 75: stopped early; the same command resumes' in said


def test_stop_cancels_a_job_that_waits(launcher):
    launcher.plan('wait@10 wait', '0 0')
    again = launcher.submit()
    again.wait_for('task 0 start 1')
    launcher.cluster.ask('scancel', '--signal=TERM', str(again.number))
    launcher.cluster.wait_until(lambda: again.field('JobState') == 'PENDING')
    held = launcher.submit('--sbatch=--hold')
    for job in (again, held):
        done = launcher.run('stop', job.number)
        assert done.returncode == 0, done.stderr
        assert f'job {job.number} has ended: CANCELLED' in done.stderr
    assert again.field('Restarts') == '1'


def test_stop_ends_a_job_that_is_not_training_yet(launcher):
    launcher.plan('0 0')
    (launcher.folder / 'setup.sh').write_text('echo setting up; sleep 60\n')
    job = launcher.submit('--setup=setup.sh')
    job.wait_for('setting up')
    done = launcher.run('stop', job.number)
    assert f'job {job.number} has ended: CANCELLED' in done.stderr, done.stderr
    assert job.field('Restarts') == '0'


def test_a_setup_that_fails_ends_the_job(launcher):
    launcher.plan('0 0')
    (launcher.folder / 'setup.sh').write_text('echo no such module; false\n')
    job = launcher.submit('--setup=setup.sh')
    assert job.end() == ('FAILED', 2)
    assert 'no such module' in job.log and 'its last command failed with exit code 1' in job.log


def test_a_time_limit_that_leaves_no_time_is_refused(launcher):
    launcher.plan('0 0')
    options = ('--nodes=1', '--gpus-per-node=2', '--', 'train', '--workdir', 'w')
    for limit in ('2', '2:59', '00:03:00', '0-0:3'):
        done = launcher.run(f'--time={limit}', *options)
        assert done.returncode == 2
        assert f'--time {limit}: the time limit {limit} is too short' in done.stderr
    job = launcher.submit(SBATCH_TIMELIMIT='2')  # from elsewhere: the job itself sees it
    assert job.end() == ('FAILED', 2)
    assert 'the time limit 00:02:00 is too short' in job.log
    assert launcher.submit('--time=2', '--grace=30').end() == ('COMPLETED', 0)


def test_a_killed_task_does_not_hold_the_others_for_long(launcher):
    launcher.plan('wait:deaf wait', '0 0')
    training = ('train', '--workdir', launcher.folder / 'run', '--config.hosts.heartbeat=50')
    shorter = 'srun() { echo "srun $*"; command srun "${@/--wait=110/--wait=2}"; }'
    (launcher.folder / 'setup.sh').write_text(f'{shorter}\n')
    job = launcher.submit('--grace=30', '--setup=setup.sh', training=training)
    job.wait_for('task 1 start 1')
    assert ' --wait=110 ' in job.log
    os.kill(launcher.cluster.processes(SLURM_PROCID='1', SLURM_JOB_ID=str(job.number))[-1], signal.SIGKILL)
    assert job.end() == ('COMPLETED', 0), job.log


def test_status_and_logs_of_any_job(launcher):
    launcher.plan('wait wait')
    job, held = launcher.submit(), launcher.submit('--sbatch=--hold')
    job.wait_for('task 0 start 1')
    assert f'job {job.number} rvm: RUNNING for 00:00:' in launcher.run('status', job.number).stdout
    assert f'job {held.number} rvm: PENDING, JobHeldUser' in launcher.run('status', held.number).stdout
    command = ['bash', launcher.checkout / 'launch' / 'slurm.sh', 'logs', str(job.number)]
    with subprocess.Popen(command, env=launcher.env, stdout=subprocess.PIPE, text=True) as following:
        assert 'start 1' in following.stdout.readline()
        assert following.poll() is None
        following.kill()
    launcher.run('stop', job.number)
    job.end()
    done = launcher.run('logs', job.number)  # it ends: nothing follows
    assert done.returncode == 0 and 'task 0 start 1' in done.stdout
    for verb in ('status', 'logs', 'stop'):
        done = launcher.run(verb, 999999)
        assert done.returncode == 2
        assert 'job 999999: ' in done.stderr and len(done.stderr.splitlines()) == 1


def test_status_of_a_job_that_slurm_has_forgotten(launcher):
    logs = launcher.checkout / 'runs' / 'slurm'
    logs.mkdir(parents=True)
    (logs / '999998.log').write_text('step 9/9\n')
    said = launcher.run('status', 999998).stdout
    assert 'job 999998: Slurm does not know it any more' in said and 'step 9/9' in said
    assert launcher.run('logs', 999998).stdout == 'step 9/9\n'


def test_what_sbatch_refuses_is_said(launcher):
    launcher.plan('0 0')
    done = launcher.run('--nodes=1', '--gpus-per-node=2', '--partition=none', '--', 'train', '--workdir', 'w')
    assert done.returncode == 2
    assert 'invalid partition' in done.stderr and 'sbatch did not take the job' in done.stderr


def test_a_slurm_that_does_not_answer_is_not_an_unknown_job(launcher):
    conf = launcher.folder / 'slurm.conf'
    text = pathlib.Path(launcher.env['SLURM_CONF']).read_text()
    conf.write_text(
        text.replace('SlurmctldPort=', 'SlurmctldPort=1 #').replace('MessageTimeout=30', 'MessageTimeout=2')
    )
    shutil.copy(launcher.cluster.folder / 'gres.conf', launcher.folder)
    done = launcher.run('status', 12, SLURM_CONF=str(conf))
    assert done.returncode == 75
    assert 'Slurm does not answer' in done.stderr


def test_a_time_limit_that_comes_too_soon_queues_the_job_again(deaf):
    assert deaf.end(seconds=240) == ('COMPLETED', 0), deaf.log
    assert 'the time limit came before the training had saved and ended; the job goes back into the queue' in deaf.log
    assert deaf.field('Restarts') == '1'

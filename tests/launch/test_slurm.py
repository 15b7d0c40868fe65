"""What launch/slurm.sh says without a Slurm; tests/slurm has the rest."""

import shlex
import shutil

import pytest

NODES = ('--nodes', '2', '--gpus-per-node', '2', '--partition', 'gpu', '--time', '24:00:00')
TRAINING = ('--', 'train', '--workdir', 'w')


@pytest.fixture
def slurm(launcher):
    """A checkout with an `rvm`, on a machine without Slurm."""
    rvm = launcher.checkout / '.venv' / 'bin' / 'rvm'
    rvm.parent.mkdir(parents=True)
    rvm.symlink_to('/bin/true')
    tools = launcher.root / 'tools'
    tools.mkdir()
    for name in ('bash', 'dirname', 'grep', 'head', 'sed', 'tail', 'mkdir', 'cat'):
        (tools / name).symlink_to(shutil.which(name))
    launcher.env['PATH'] = str(tools)
    return launcher


def is_one_line(done, message):
    return done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--nodes', '2', *TRAINING), "--gpus-per-node ''"),
        (('--gpus-per-node', '2', *TRAINING), "--nodes ''"),
        (('--nodes=two', '--gpus-per-node=2', *TRAINING), "--nodes 'two'"),
        (('--nodes=2', '--gpus-per-node=h100', *TRAINING), "--gpus-per-node 'h100'"),
        ((*NODES, '--cpus-per-gpu', '0', *TRAINING), "--cpus-per-gpu '0'"),
        ((*NODES, '--grace=5m', *TRAINING), "--grace '5m'"),
        ((*NODES, '--grace=86400', *TRAINING), "--grace '86400'"),
        ((*NODES, '--partition=', *TRAINING), '--partition has a blank value'),
        ((*NODES, '--account', ' ', *TRAINING), '--account has a blank value'),
        (('--nodes', '--gpus-per-node', '2', *TRAINING), '--nodes needs a value, but --gpus-per-node follows'),
        ((*NODES, '--name'), '--name needs a value'),
        ((*NODES, '--dry-run=yes', *TRAINING), '--dry-run does not take a value'),
        ((*NODES, '--setup', 'none.sh', *TRAINING), 'none.sh: is not a file that can be read'),
        ((*NODES, '--logs=100%', *TRAINING), 'Slurm takes % and \\ in the path of a log for something else'),
        ((*NODES, '--sbatch', 'exclusive', *TRAINING), '--sbatch exclusive: give the option as sbatch takes it'),
        ((*NODES, '--sbatch=--signal=TERM@9', *TRAINING), '--sbatch --signal=TERM@9: launch/slurm.sh sets this itself'),
        ((*NODES, '--sbatch', '--no-requeue', *TRAINING), '--sbatch --no-requeue: launch/slurm.sh sets this itself'),
        ((*NODES, '--', 'train', '--config', 'c'), '--workdir is missing'),
        (NODES, 'the command to run is missing'),
        ((*NODES, '--flags', 'vmem'), '--flags vmem: unknown set of flags'),
        (('--gpus', '2'), '--gpus: unknown option'),
        ((*NODES, *TRAINING), 'sbatch is not installed here, or not on PATH'),
        (('stop',), 'which job?'),
        (('stop', '7'), 'scontrol is not installed here, or not on PATH'),
        (('status', '7'), 'scontrol is not installed here, or not on PATH'),
        (('logs', '7'), 'scontrol is not installed here, or not on PATH'),
    ],
)
def test_a_mistake_is_one_line(slurm, arguments, message):
    done = slurm.run('slurm.sh', *arguments)
    assert is_one_line(done, message), done.stderr


@pytest.mark.parametrize('limit', ['2', '3', '1:30', '0:02:59', '0-0:3', '00:00:08'])
def test_a_time_limit_that_leaves_no_time_to_save_is_refused(slurm, limit):
    done = slurm.run('slurm.sh', '--nodes=1', '--gpus-per-node=1', '--time', limit, *TRAINING)
    assert is_one_line(done, f'--time {limit}: the time limit {limit} is too short'), done.stderr


@pytest.mark.parametrize('limit', ['4', '3:01', '1:00:00', '1-0', '0-0:4', '08:08:08', '0', 'UNLIMITED'])
def test_longer_time_limits_are_accepted(slurm, limit):
    done = slurm.run('slurm.sh', '--nodes=1', '--gpus-per-node=1', '--time', limit, '--dry-run', *TRAINING)
    assert done.returncode == 0, done.stderr
    assert f'--time={limit}' in done.stdout


def test_a_checkout_without_an_environment_is_named(slurm):
    (slurm.checkout / '.venv' / 'bin' / 'rvm').unlink()
    assert is_one_line(slurm.run('slurm.sh', *NODES, *TRAINING), '.venv/bin/rvm is missing: run make .venv/package')


def test_a_dry_run_prints_commands_that_can_be_pasted(slurm):
    path = '--config.data.path=/data/two words'
    done = slurm.run('slurm.sh', *NODES, '--logs', 'my logs', '--sbatch', '--mem=0', '--dry-run', *TRAINING, path)
    make, submit = map(shlex.split, done.stdout.splitlines())
    logs = str(slurm.checkout / 'my logs')
    assert make == ['mkdir', '-p', logs]
    assert submit[0] == 'sbatch'
    assert {'--nodes=2', '--ntasks-per-node=2', '--gpus-per-node=2', '--partition=gpu', '--time=24:00:00'} <= set(
        submit
    )
    assert {'--signal=TERM@120', '--requeue', '--mem=0', f'--output={logs}/%j.log'} <= set(submit)
    script = submit.index(str(slurm.checkout / 'launch' / 'slurm_job.sh'))
    assert submit[script + 1 :] == [str(slurm.checkout), logs, '120', '', '', *TRAINING[1:], path]
    assert not (slurm.checkout / 'my logs').exists()


def test_help_names_every_option(slurm):
    text = slurm.run('slurm.sh', '--help').stdout
    script = (slurm.checkout / 'launch' / 'slurm.sh').read_text()
    options = script[script.index('read_value() {') : script.index('absolute() {')]
    names = {word for word in options.replace(')', ' ').split() if word.startswith('--')}
    assert len(names) > 10
    assert all(f'{name} ' in text for name in names)
    assert slurm.run('slurm.sh').stdout == text

"""A real Slurm of two nodes that are only pretended: all daemons run on this machine and speak over loopback.

It needs the Debian packages slurmctld, slurmd, slurm-client and munge (`make test-slurm` installs them), and neither
root nor a database. A node is an address of loopback, with CPU cores and GPUs that do not exist.
"""

import contextlib
import getpass
import os
import pathlib
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

REPO = pathlib.Path(__file__).parents[2]
PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'setpriv')
NODES = ('127.0.0.1', '127.0.0.2')  # names that need no line in /etc/hosts
# Less than five seconds for a credential is not accepted, and a requeued job waits that long.
SETTINGS = """
ClusterName=pretended
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={control}
FirstJobId={first}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=600
MessageTimeout=30
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE
"""


def wait_until(what, seconds=60, every=0.1):
    """What `what` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f'{what} stayed {value!r} for {seconds} s'
        time.sleep(every)
    return value


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """The daemons of a cluster, whose files are in `folder`; `env` is what Slurm's commands need to find it."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, {}
        self.env = {'PATH': f'{os.environ["PATH"]}:/usr/sbin:/usr/bin:/bin', 'SLURM_CONF': str(folder / 'slurm.conf')}
        control, *ports = free_ports(1 + len(NODES))
        first = random.randrange(
            1000, 9000
        )  # JAX takes its port from the job's number: two clusters must not share any
        lines = SETTINGS.format(folder=folder, control=control, first=first, user=getpass.getuser())
        for node, port in zip(NODES, ports, strict=True):
            lines += f'NodeName={node} NodeAddr={node} NodeHostname=localhost Port={port} '
            lines += 'CPUs=32 RealMemory=8000 Gres=gpu:h100:8\n'
        (folder / 'slurm.conf').write_text(lines)
        (folder / 'gres.conf').write_text(f'Name=gpu Type=h100 File={folder}/gpu[0-7]\n')
        (folder / 'cgroup.conf').write_text('CgroupAutomount=no\n')
        for number in range(8):
            (folder / f'gpu{number}').touch()  # any file is good as a device
        (folder / 'state').mkdir()
        folder.chmod(0o755)  # munge wants its socket to be within reach of everybody
        key = folder / 'munge.key'
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)

    def start(self):
        munge = [f'--{name}={self.folder}/munge.{name}' for name in ('socket', 'pid-file', 'log-file', 'seed-file')]
        self._daemon('munged', '--foreground', f'--key-file={self.folder}/munge.key', *munge)
        wait_until((self.folder / 'munge.socket').exists, seconds=20)
        self._daemon('slurmctld', '-D', '-f', self.env['SLURM_CONF'])
        for node in NODES:
            self.start_node(node)

    def start_node(self, node):
        self._daemon(node, '-D', '-f', self.env['SLURM_CONF'], '-N', node, program='slurmd')
        wait_until(lambda: self.ask('sinfo', '-h', '-n', node, '-o', '%t') in ('idle', 'mix', 'alloc'))

    def lose_node(self, node):
        """Everything that runs on the node is gone at once."""
        self.daemons.pop(node).kill()
        for pid in self.processes(SLURMD_NODENAME=node):
            with contextlib.suppress(ProcessLookupError):
                parent = int(pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
                os.kill(pid, signal.SIGKILL)
                if b'slurmstepd' in pathlib.Path(f'/proc/{parent}/cmdline').read_bytes():
                    os.kill(parent, signal.SIGKILL)

    def processes(self, **variables):
        """The pids of the processes of jobs that have these environment variables."""
        wanted = {
            f'{name}={value}'.encode() for name, value in {'SLURM_CONF': self.env['SLURM_CONF'], **variables}.items()
        }
        found = []
        for folder in pathlib.Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if wanted <= set((folder / 'environ').read_bytes().split(b'\0')):
                    found.append(int(folder.name))
        return found

    wait_until = staticmethod(wait_until)

    def ask(self, *command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        return done.stdout.strip()

    def job(self, number):
        """The fields of a job, such as JobState, ExitCode and Restarts."""
        shown = self.ask('scontrol', 'show', 'job', str(number))
        fields = dict(word.split('=', 1) for word in shown.split() if '=' in word)
        return fields | dict(line.strip().split('=', 1) for line in shown.splitlines() if 'StdOut=' in line)

    def end_jobs(self, *numbers):
        """End these jobs at once, without saving."""
        if numbers:
            self.ask('scancel', *map(str, numbers))
            wait_until(lambda: not self.ask('squeue', '-h', '-j', ','.join(map(str, numbers))), seconds=60)

    def _daemon(self, name, *arguments, program=''):
        path = shutil.which(program or name, path=self.env['PATH'])
        command = ['setpriv', '--pdeathsig=KILL', path, *arguments]  # it does not outlive the tests, however they end
        with open(self.folder / f'{name}.log', 'ab') as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self):
        """End all jobs, then all daemons."""
        if NODES[0] in self.daemons:
            self.end_jobs(*self.ask('squeue', '-h', '-o', '%i').split())
        for name in reversed(self.daemons):  # munged last: the others need it to end
            self.daemons[name].terminate()
            try:
                self.daemons[name].wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.daemons[name].kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope='session')
def cluster():
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f'{os.environ["PATH"]}:/usr/sbin')]
    if missing:
        pytest.skip(f'no Slurm here: {", ".join(missing)} not found; make test-slurm installs it as root')
    with tempfile.TemporaryDirectory(prefix='slurm') as folder:  # the path of a socket has at most 107 characters
        cluster = Cluster(pathlib.Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


class Launcher:
    """launch/slurm.sh of a checkout with a blank in its path, on the cluster; `rvm` is a command line."""

    def __init__(self, folder, cluster, rvm):
        self.folder, self.checkout, self.cluster, self.jobs = folder, folder / 'a checkout', cluster, []
        self.env = {**cluster.env, 'HOME': str(folder), 'JAX_PLATFORMS': 'cpu'}
        shutil.copytree(REPO / 'launch', self.checkout / 'launch')
        (self.checkout / 'configs').symlink_to(REPO / 'configs')
        binaries = self.checkout / '.venv' / 'bin'
        binaries.mkdir(parents=True)
        for name, command in {'rvm': rvm, 'python': [sys.executable]}.items():
            line = f'PYTHONPATH={shlex.quote(str(REPO))} exec {shlex.join(map(str, command))} "$@"'
            (binaries / name).write_text(f'#!/bin/sh\n{line}\n')
            (binaries / name).chmod(0o755)

    def plan(self, *starts):
        """How each start of the stand-in for rvm goes, see programs/rvm.py."""
        for path in self.folder.glob('started.*'):
            path.unlink()
        (self.folder / 'plan').write_text('\n'.join(starts))

    def run(self, *arguments, cwd=None, **variables):
        command = ['bash', self.checkout / 'launch' / 'slurm.sh', *map(str, arguments)]
        return subprocess.run(
            command, env=self.env | variables, capture_output=True, text=True, cwd=cwd or self.folder, timeout=60
        )

    def submit(self, *options, training=(), cwd=None, **variables):
        """A Job of one node and two tasks, unless the options say something else."""
        training = training or ('train', '--config', 'configs/tiny.py', '--workdir', self.folder / 'run')
        done = self.run(
            '--nodes=1', '--gpus-per-node=2', '--cpus-per-gpu=1', *options, '--', *training, cwd=cwd, **variables
        )
        assert done.returncode == 0, done.stderr
        self.jobs.append(int(done.stdout.split()[-1]))
        return Job(self.cluster, self.jobs[-1], done.stderr)


class Job:
    """A job that was submitted, and what launch/slurm.sh said."""

    wait_until = staticmethod(wait_until)

    def __init__(self, cluster, number, reply):
        self._cluster, self.number, self.reply = cluster, number, reply
        self.log_path = pathlib.Path(self.field('StdOut'))

    def field(self, name):
        return self._cluster.job(self.number).get(name, '')

    @property
    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ''

    def wait_for(self, text, seconds=90):
        """Until the log has this text."""

        def has_it():
            assert self.field('JobState') not in ('FAILED', 'CANCELLED', 'TIMEOUT') or text in self.log, self.log
            return text in self.log

        wait_until(has_it, seconds)

    def end(self, seconds=90):
        """(state, exit code) once it has ended."""
        ended = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL')
        state = wait_until(lambda: (now := self.field('JobState')) in ended and now, seconds)
        return state, int(self.field('ExitCode').split(':')[0])


@pytest.fixture(scope='session')
def make_launcher(cluster):
    """make_launcher(folder, command) -> Launcher whose `rvm` is that command."""
    return lambda folder, command: Launcher(folder, cluster, command)


@pytest.fixture
def launcher(tmp_path, make_launcher, cluster):
    """A Launcher whose `rvm` is the stand-in; no job outlives the test."""
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    launcher = make_launcher(tmp_path, [sys.executable, REPO / 'tests' / 'slurm' / 'programs' / 'rvm.py', tmp_path])
    yield launcher
    cluster.end_jobs(*launcher.jobs)

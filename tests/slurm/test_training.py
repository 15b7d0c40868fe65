"""`rvm train` itself on a real Slurm, in two processes on two nodes: signals, a time limit, a lost node, a stop."""

import json
import os
import pathlib
import re
import sys

import pytest

from rvm_jax.synthetic.synthetic_videos import write_videos

pytestmark = pytest.mark.slurm
PATIENCE = 900  # seconds to compile on a busy machine
SMALL = {
    'model.unroll': 'false', 'model.core_layers': 1, 'data.image_size': 16, 'data.num_source': 2, 'data.num_target': 1,
    'data.num_workers': 0, 'batch_size': 2, 'log.every': 1, 'log.images_every': 0, 'checkpoint.every': 5,
    'hosts.heartbeat': 60, 'steps': 10**6,
}  # fmt: skip


class Training:
    """Runs of the tiny recipe that are compiled once; they do not differ in what they compute."""

    def __init__(self, launcher, folder):
        self.launcher, self.folder = launcher, folder
        videos = folder / 'videos'
        write_videos(videos, 4, seed=0, num_frames=24, height=24, width=24, num_workers=0)
        self.config = SMALL | {'data.path': videos}
        # What makes compiling fast in all tests, for one device.
        flags = ' '.join(flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag)
        settings = {
            'JAX_COMPILATION_CACHE_DIR': folder / 'compiled', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': 0.3,
            'XLA_FLAGS': f'"{flags}"',
        }  # fmt: skip
        lines = [f'export {name}={value}' for name, value in settings.items()]
        (folder / 'setup.sh').write_text('\n'.join(lines) + '\n')

    def submit(self, name, *options, **overrides):
        training = ('train', '--config', 'configs/tiny.py', '--workdir', self.folder / name)
        training += tuple(f'--config.{key}={value}' for key, value in (self.config | overrides).items())
        options = ('--nodes=2', '--gpus-per-node=1', f'--setup={self.folder}/setup.sh', *options)
        return self.launcher.submit(*options, training=training)

    def losses(self, name):
        """(step, loss) of each line that was logged."""
        lines = (self.folder / name / 'metrics.jsonl').read_text().splitlines()
        return [(entry['step'], entry['loss']) for entry in map(json.loads, lines) if 'loss' in entry]

    def saved(self, name):
        """The steps of its checkpoints."""
        return sorted(int(path.name) for path in (self.folder / name / 'checkpoints').glob('[0-9]*'))

    def stop(self, job):
        done = self.launcher.run('stop', job.number)
        assert done.returncode == 0, done.stderr
        assert job.end(PATIENCE) == ('FAILED', 75), job.log
        assert 'the job does not go back into the queue: launch/slurm.sh stop' in job.log


@pytest.fixture(scope='module')
def training(make_launcher, tmp_path_factory):
    folder = tmp_path_factory.mktemp('training')
    return Training(make_launcher(folder, [sys.executable, pathlib.Path(sys.executable).with_name('rvm')]), folder)


def wait_for_steps(job, start):
    """Until a job's start-th start (from 1) or a later one has logged some steps; the step it resumed at, or 0."""

    def shown():
        starts = re.split('(?m)^tiny: ', job.log)[1:]
        return len(starts) >= start and len(re.findall('(?m)^step ', starts[-1])) > 2 and job.log

    resumed = re.findall(r'resuming at step (\d+)', job.wait_until(shown, PATIENCE))
    return int(resumed[-1]) if resumed else 0


def test_a_signal_and_a_lost_node_queue_the_job_again_and_it_resumes(training, cluster):
    job = training.submit('signaled')
    assert wait_for_steps(job, 1) == 0
    cluster.ask('scancel', '--signal=TERM', str(job.number))
    resumed = wait_for_steps(job, 2)
    assert 'slurm_job.sh: stopped early; the job goes back into the queue' in job.log
    assert f'saved at step {resumed}' in job.log
    assert [step for step, _ in training.losses('signaled')][: resumed + 1] == list(range(1, resumed + 2))

    cluster.lose_node('127.0.0.2')
    job.wait_until(lambda: cluster.ask('sinfo', '-h', '-n', '127.0.0.2', '-o', '%t').startswith('down'), 120)
    job.wait_until(lambda: job.field('JobState') == 'PENDING', 120)
    cluster.start_node('127.0.0.2')
    resumed = wait_for_steps(job, 3)
    assert resumed in training.saved('signaled') or resumed < min(training.saved('signaled'))
    training.stop(job)
    assert int(job.field('Restarts')) >= 2  # 3 if it was started once more before Slurm knew that the node was gone


def test_a_time_limit_saves_and_queues_the_job_again(training):
    job = training.submit('limited', '--time=3', '--grace=115')
    wait_for_steps(job, 2)
    assert 'the job goes back into the queue' in job.log
    training.stop(job)
    # What interrupted a run leaves no trace in what it computes.
    limited, signaled = (dict(training.losses(name)) for name in ('limited', 'signaled'))
    common = sorted(set(limited) & set(signaled))
    assert common == list(range(1, len(common) + 1))
    assert [limited[step] for step in common] == [signaled[step] for step in common]


def test_a_run_that_was_stopped_ends_with_fewer_steps(training):
    steps = training.saved('limited')[-1] + 3
    job = training.submit('limited', **{'steps': steps, 'optim.allow_change': 'true'})
    assert job.end(PATIENCE) == ('COMPLETED', 0), job.log
    assert [step for step, _ in training.losses('limited')] == list(range(1, steps + 1))
    assert f'job {job.number} rvm: COMPLETED' in training.launcher.run('status', job.number).stdout

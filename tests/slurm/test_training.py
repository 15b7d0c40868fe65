"""`rvm train` itself on a real Slurm, in two processes on two nodes: signals, a time limit, a lost node, a stop."""

import json
import pathlib
import sys

import pytest

from rvm_jax.synthetic.synthetic_videos import write_videos

pytestmark = pytest.mark.slurm
SMALL = {
    'model.unroll': 'false', 'data.image_size': 16, 'data.num_source': 2, 'data.num_target': 1, 'data.num_workers': 0,
    'batch_size': 2, 'log.every': 1, 'log.images_every': 0, 'checkpoint.every': 10, 'hosts.heartbeat': 20,
}  # fmt: skip


class Training:
    """Runs of the tiny recipe; the compiled program is shared, and XLA_FLAGS is not set, as on most machines."""

    def __init__(self, launcher, folder):
        self.launcher, self.folder = launcher, folder
        self.videos = folder / 'videos'
        write_videos(self.videos, 4, seed=0, num_frames=24, height=24, width=24, num_workers=0)
        compiled = (
            f'export JAX_COMPILATION_CACHE_DIR={folder}/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3\n'
        )
        (folder / 'setup.sh').write_text(compiled)

    def submit(self, name, steps, *options):
        config = SMALL | {'data.path': self.videos, 'steps': steps}
        training = ('train', '--config', 'configs/tiny.py', '--workdir', self.folder / name)
        training += tuple(f'--config.{key}={value}' for key, value in config.items())
        options = ('--nodes=2', '--gpus-per-node=1', f'--setup={self.folder}/setup.sh', *options)
        return self.launcher.submit(*options, training=training)

    def losses(self, name):
        """Those of each step, in the order in which they were written."""
        lines = (self.folder / name / 'metrics.jsonl').read_text().splitlines()
        return [(entry['step'], entry['loss']) for entry in map(json.loads, lines) if 'loss' in entry]


@pytest.fixture(scope='module')
def training(make_launcher, tmp_path_factory):
    folder = tmp_path_factory.mktemp('training')
    rvm = [sys.executable, pathlib.Path(sys.executable).with_name('rvm')]
    return Training(make_launcher(folder, rvm), folder)


def test_a_time_limit_saves_queues_again_and_stop_saves(training):
    job = training.submit('limited', 10**6, '--time=2', '--grace=50')
    job.wait_for('slurm_job.sh: stopped early; the job goes back into the queue', 200)
    job.wait_for('resuming at step', 200)

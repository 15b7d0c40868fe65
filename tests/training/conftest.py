"""Videos and a small recipe for the tests that train; where they agree in every number, a program is compiled once."""

import pytest

from rvm_jax import config
from rvm_jax.synthetic.synthetic_videos import write_videos

# The first step has a learning rate of zero, so it changes no parameter.
SMALL = [
    'steps=5', 'batch_size=8', 'optim.warmup=0.2', 'model.unroll=false', 'data.image_size=16', 'data.num_workers=0',
    'mesh.data=-1', 'checkpoint.every=1', 'checkpoint.keep=9', 'log.every=1', 'log.images_every=0', 'log.eval_clips=8',
]  # fmt: skip


@pytest.fixture(scope='session')
def videos(tmp_path_factory):
    """A folder of eight short videos."""
    folder = tmp_path_factory.mktemp('videos')
    write_videos(folder, 8, seed=0, num_frames=24, height=32, width=32, num_workers=0)
    return str(folder)


@pytest.fixture(scope='session')
def recipe(videos):
    """recipe(*overrides) -> a config that trains five steps on these videos, on eight devices."""
    return lambda *overrides: config.load('configs/tiny.py', [*SMALL, f'data.path={videos}', *overrides])

"""Whole runs on real MP4 files, in this process; those that are stopped and killed are in tests/faults."""

import os

import pytest

from rvm_jax import config, pretrained
from rvm_jax.errors import Diverged, UserError
from rvm_jax.synthetic.synthetic_videos import write_videos
from rvm_jax.training.loop import train

SMALL = [
    'model.unroll=false',
    'data.image_size=16',
    'batch_size=4',
    'log.every=1',
    'log.images_every=0',
    'log.eval_clips=4',
]


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A folder of eight short videos."""
    folder = tmp_path_factory.mktemp('videos')
    write_videos(folder, 8, seed=0, num_frames=24, height=24, width=24, num_workers=0)
    return str(folder)


def recipe(videos, *overrides):
    return config.load(
        'configs/tiny.py',
        [*SMALL, f'data.path={videos}', 'data.num_workers=0', 'mesh.data=-1', 'batch_size=8', *overrides],
    )


def test_a_workdir_holds_what_the_contract_says_and_opens_as_a_model(videos, tmp_path):
    workdir = str(tmp_path / 'run')
    train(recipe(videos, 'steps=2', f'data.eval_path={videos}'), workdir, pretrained.load)
    assert {'config.json', 'checkpoints', 'metrics.jsonl', 'tensorboard', 'images', 'data_report.json'} <= set(
        os.listdir(workdir)
    )
    assert {'loss.png', 'reconstruction_00000002.png'} <= set(os.listdir(os.path.join(workdir, 'images')))
    model = pretrained.load(workdir)
    assert model.architecture.image_size == 16

    started = str(tmp_path / 'started')
    train(recipe(videos, 'steps=1', 'optim.peak_lr=0.0', f'init_from={workdir}'), started, pretrained.load)
    a, b = (pretrained.load(path).encoder.patch_embed.kernel[...] for path in (workdir, started))
    assert (a == b).all()


def test_a_run_that_stays_nonfinite_stops_and_names_step_and_records(videos, tmp_path):
    broken = recipe(
        videos,
        'steps=50',
        'optim.peak_lr=1e38',
        'optim.warmup=0.0',
        'optim.clip_norm=0.0',
        'checkpoint.every=1',
        'optim.max_nonfinite=3',
    )
    with pytest.raises(Diverged, match=r'step \d+: 3 steps in a row were not finite, the last on .*clip_0000'):
        train(broken, str(tmp_path / 'run'), pretrained.load)
    pretrained.load(str(tmp_path / 'run'))


def test_a_batch_that_does_not_divide_over_the_devices_is_refused_at_once(videos, tmp_path):
    with pytest.raises(UserError, match='batch_size=6: does not divide over 8 devices'):
        train(recipe(videos, 'batch_size=6'), str(tmp_path / 'run'), pretrained.load)
    assert not (tmp_path / 'run').exists()

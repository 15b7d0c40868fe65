"""Whole runs on real MP4 files, in this process; those that are stopped and killed are in tests/faults."""

import os

import jax
import numpy as np
import pytest
from flax import nnx

from rvm_jax import pretrained
from rvm_jax.errors import Diverged, UserError
from rvm_jax.models import param_names
from rvm_jax.training.loop import train


@pytest.fixture(scope='module')
def run(recipe, videos, tmp_path_factory):
    """A finished workdir."""
    workdir = str(tmp_path_factory.mktemp('run') / 'workdir')
    train(recipe(f'data.eval_path={videos}'), workdir, pretrained.load)
    return workdir


def test_a_workdir_has_all_its_files_and_opens_as_a_model(run):
    wanted = {'config.json', 'checkpoints', 'metrics.jsonl', 'tensorboard', 'images', 'data_report.json'}
    assert wanted <= set(os.listdir(run))
    assert {'loss.png', 'reconstruction_00000005.png'} <= set(os.listdir(os.path.join(run, 'images')))
    assert pretrained.load(run).architecture.image_size == 16


@pytest.mark.long
def test_a_run_starts_from_the_weights_of_another(run, recipe, tmp_path):
    workdir = str(tmp_path / 'run')
    train(recipe(f'init_from={run}'), workdir, pretrained.load)
    given = param_names.to_named(pretrained.load(run))
    first, last = (param_names.to_named(pretrained.load(workdir, step=step)) for step in (1, 5))
    assert all(np.array_equal(first[name], array) for name, array in given.items())
    assert not all(np.array_equal(last[name], array) for name, array in given.items())


@pytest.mark.long
def test_a_run_that_stays_nonfinite_stops_and_says_where(run, recipe, tmp_path):
    def load_broken(path):
        graphdef, params = nnx.split(pretrained.load(path))
        return nnx.merge(graphdef, jax.tree.map(lambda x: np.nan * x, params))

    workdir = str(tmp_path / 'run')
    with pytest.raises(
        Diverged, match=r'step 3: the loss or gradients of 3 steps in a row were NaN or infinite; .*clip_0000'
    ):
        train(recipe(f'init_from={run}', 'optim.max_nonfinite=3'), workdir, load_broken)
    assert pretrained.load(workdir).architecture.image_size == 16


def test_a_batch_must_divide_over_the_devices(recipe, tmp_path):
    with pytest.raises(UserError, match='batch_size=6: cannot be split evenly over 8 devices'):
        train(recipe('batch_size=6'), str(tmp_path / 'run'), pretrained.load)
    assert not (tmp_path / 'run').exists()

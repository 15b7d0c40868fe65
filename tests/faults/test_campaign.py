"""Kills at random moments, many times: the result is the same as without kills.

RVM_KILLS (20) is the number of kills. Each TURN of them has its own seed, starting with RVM_SEED (0).
"""

import itertools
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from rvm_jax.training.checkpoint import read_step

TURN = 20
KILLS, FIRST = (int(os.environ.get(name, default)) for name, default in (('RVM_KILLS', TURN), ('RVM_SEED', 0)))
SEEDS = range(FIRST, FIRST + KILLS // TURN)
OF_TRAINING, OF_OTHERS = 14, 3  # of each turn: of training, of exports, of preparations
STEPS = 40
MOST_REPEATED = 2 * 3 + 2  # checkpoint.every = 3: a save in progress is lost too, and two steps are in flight

pytestmark = pytest.mark.slow


def strike(command, rng):
    """SIGKILL, for the command alone or for its workers too; no process may stay behind either way."""
    if rng.random() < 0.5:
        return command.kill()
    if command.process.poll() is None:
        os.kill(command.pid, signal.SIGKILL)
    return command.end()


@pytest.fixture(scope='module')
def long_reference(make_training):
    reference = make_training()
    reference.finish(steps=STEPS)
    return reference


@pytest.fixture(scope='module')
def many_videos(videos, tmp_path_factory):
    """Enough videos that preparing them takes a while."""
    folder = tmp_path_factory.mktemp('many')
    for number in range(12):
        for path in videos.glob('*.mp4'):
            shutil.copy(path, folder / f'{number}_{path.name}')
    return folder


@pytest.mark.fault('F3', 'SIGKILL at random moments of training and saving')
@pytest.mark.parametrize('seed', SEEDS)
def test_a_run_killed_over_and_over_ends_like_one_that_never_was(make_training, long_reference, seen, seed):
    rng, repeated, unfinished, kills = random.Random(seed), 0, 0, 0
    while kills < OF_TRAINING:
        training, code = make_training(), None
        while code != 0:
            command = training.start(steps=STEPS, data__num_workers=rng.choice([0, 1]))
            if kills < OF_TRAINING:
                if rng.random() < 0.3:
                    time.sleep(rng.uniform(0, 8))  # while it starts
                else:
                    command.wait_for_steps(rng.randrange(1, 12))
                    time.sleep(rng.uniform(0, 0.3))
                code, said = strike(command, rng)
                kills += code == -signal.SIGKILL
                unfinished += any('tmp' in step for step in training.steps())
            else:
                code, said = command.end()
            assert code in (0, -signal.SIGKILL) and 'damaged' not in said, said
        training.repeated(long_reference, STEPS)
        assert same(read_step(training.workdir)[1], read_step(long_reference.workdir)[1])
        steps = training.trained()
        repeated = max([repeated, *(before - after + 1 for before, after in itertools.pairwise(steps))])
    assert repeated <= MOST_REPEATED
    seen(f'seed {seed}: {kills} kills, {unfinished} left an unfinished save', f'{repeated} at most')


@pytest.mark.fault('F25', 'SIGKILL at random moments of an export')
@pytest.mark.parametrize('seed', SEEDS)
def test_an_export_killed_over_and_over_is_whole_or_not_there(command, reference, tmp_path, seen, seed):
    rng, output = random.Random(seed), tmp_path / 'out'
    began = time.monotonic()
    assert command('export', '--model', reference.workdir, '--output', tmp_path / 'whole').end()[0] == 0
    seconds = time.monotonic() - began
    kills = replaced = 0
    while kills < OF_OTHERS:
        was_there = output.exists()
        export = command('export', '--model', reference.workdir, '--output', output, '--overwrite')
        time.sleep(rng.uniform(0.3, 1) * seconds)
        if strike(export, rng)[0] == -signal.SIGKILL:
            kills, replaced = kills + 1, replaced + was_there
        assert contents(output) == contents(tmp_path / 'whole') if output.exists() else not was_there
    assert command('export', '--model', reference.workdir, '--output', output, '--overwrite').end()[0] == 0
    assert contents(output) == contents(tmp_path / 'whole')
    assert sorted(os.listdir(tmp_path)) == ['out', 'whole']
    seen(f'seed {seed}: {kills} kills, {replaced} while an older one was replaced')


@pytest.mark.fault('F25b', 'SIGKILL at random moments of preparing shards')
@pytest.mark.parametrize('seed', SEEDS)
def test_shards_prepared_under_kills_are_those_of_one_go(command, many_videos, tmp_path, seen, seed):
    rng, began = random.Random(seed), time.monotonic()
    words = 'prepare', '--input', many_videos, '--output'
    assert command(*words, tmp_path / 'whole').end()[0] == 0
    seconds, kills = time.monotonic() - began, 0
    while kills < OF_OTHERS:
        prepare = command(*words, tmp_path / 'out')
        time.sleep(rng.uniform(0.3, 1) * seconds)
        if strike(prepare, rng)[0] == -signal.SIGKILL:
            kills += 1
        else:  # it was done
            assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
            shutil.rmtree(tmp_path / 'out')
    assert command(*words, tmp_path / 'out').end()[0] == 0
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
    seen(f'seed {seed}: {kills} kills')


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def same(ours, theirs):
    import jax

    pairs = jax.tree.map(lambda left, right: bool(np.array_equal(left, right)), ours, theirs)
    return all(jax.tree.leaves(pairs))

"""Signals and kills: the resumed run equals an uninterrupted one."""

import os
import signal

import pytest


@pytest.mark.long
@pytest.mark.fault('F1', 'SIGTERM in the middle of a step')
def test_sigterm_saves_the_step_and_the_same_line_resumes(training, reference, seen):
    run = training.start(hold=[6])
    training.wait_held(6)
    run.signal(signal.SIGTERM)
    run.wait_for('SIGTERM: finishing step 6, then saving and stopping')
    training.release(6)
    code, said = run.end()
    assert code == 75, said
    assert 'SIGTERM: saved at step 6; the same command line resumes' in said
    assert max(training.losses()) == 6 and '6' in training.steps()
    assert 'resuming at step 6' in training.finish()
    repeated = training.repeated(reference)
    assert repeated == 0
    seen('saved, exit 75, resumed', repeated)


@pytest.mark.slow
@pytest.mark.fault('F2', 'Ctrl-C')
def test_ctrl_c_saves_too(training, reference, seen):
    run = training.start(hold=[6], data__num_workers=1)
    training.wait_held(6)
    os.killpg(run.pid, signal.SIGINT)  # as from a terminal: workers get it too
    run.wait_for('Ctrl-C: finishing step 6, then saving and stopping')
    training.release(6)
    code, said = run.end()
    assert code == 130, said
    assert 'Ctrl-C: saved at step 6' in said
    training.finish()
    repeated = training.repeated(reference)
    assert repeated == 0
    seen('saved, exit 130, resumed', repeated)


@pytest.mark.slow
@pytest.mark.fault('F2b', 'Ctrl-C twice')
def test_ctrl_c_twice_ends_at_once(training, reference, seen):
    run = training.start(hold=[6])
    training.wait_held(6)
    run.signal(signal.SIGINT)
    run.wait_for('Ctrl-C: finishing step 6, then saving and stopping')
    run.signal(signal.SIGINT)
    code, said = run.end()
    assert code == 130, said
    training.finish()
    repeated = training.repeated(reference)
    assert 3 <= repeated <= 6  # the save of step 3 may have been under way
    seen('exit 130 at once, resumed', repeated)


@pytest.mark.long
@pytest.mark.fault('F3', 'SIGKILL of the run and its worker')
def test_a_killed_run_goes_on_from_its_last_save(training, reference, seen):
    run = training.start(hold=[9], data__num_workers=1)
    training.wait_held(9)
    code, _ = run.kill()
    assert code == -signal.SIGKILL
    training.finish(data__num_workers=2)  # this does not change the clips
    repeated = training.repeated(reference)
    assert 3 <= repeated <= 6
    seen('resumed from its last save', repeated)

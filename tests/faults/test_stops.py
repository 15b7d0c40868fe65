"""Signals and kills: what goes on afterwards goes on as if nothing had happened."""

import os
import signal

import pytest


@pytest.mark.fault('F1', 'SIGTERM in the middle of a step')
def test_sigterm_saves_the_step_and_the_same_line_goes_on(training, reference, seen):
    run = training.start()
    run.wait_for('step 4/')
    run.signal(signal.SIGTERM)
    code, said = run.end(timeout=60)
    assert code == 75, said
    saved = max(training.losses())
    assert f'SIGTERM: saved at step {saved}; the same command line goes on' in said
    assert str(saved) in training.steps()
    assert f'going on from step {saved}' in training.finish()
    repeated = training.repeated(reference)
    assert repeated == 0
    seen('saved, exit 75, went on', repeated)


@pytest.mark.slow
@pytest.mark.fault('F2', 'Ctrl-C')
def test_ctrl_c_saves_too(training, reference, seen):
    run = training.start(data__num_workers=1)
    run.wait_for('step 4/')
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: workers get it too
    code, said = run.end(timeout=60)
    assert code == 130, said
    assert 'Ctrl-C: saved at step' in said
    training.finish()
    repeated = training.repeated(reference)
    assert repeated == 0
    seen('saved, exit 130, went on', repeated)


@pytest.mark.slow
@pytest.mark.fault('F2b', 'Ctrl-C twice')
def test_ctrl_c_twice_ends_at_once_and_costs_only_steps_since_the_last_save(training, reference, seen):
    run = training.start()
    run.wait_for('step 5/')
    os.kill(run.pid, signal.SIGINT)
    run.wait_for('Ctrl-C: finishing step')
    os.kill(run.pid, signal.SIGINT)
    code, said = run.end(timeout=30)
    assert code == 130, said
    training.finish()
    seen('exit 130 at once, went on', training.repeated(reference))


@pytest.mark.fault('F3', 'SIGKILL, for its worker too')
def test_a_killed_run_goes_on_from_its_last_save(training, reference, seen):
    run = training.start(data__num_workers=1)
    run.wait_for('step 8/')
    code, _ = run.kill()
    assert code == -signal.SIGKILL
    training.finish(data__num_workers=2)  # which changes no clip
    repeated = training.repeated(reference)
    assert repeated
    seen('went on from its last save', repeated)

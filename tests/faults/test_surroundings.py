"""Things around a run: another run, the clock, the reader of its output, and its log files."""

import json
import os
import re
import signal

import pytest

pytestmark = pytest.mark.slow
STEPS = 14  # as in the reference


def state(training, step=STEPS):
    """{name: bytes} of the parameters of a step."""
    from rvm_jax.models.param_names import tree_named
    from rvm_jax.training.checkpoint import read_step

    return {name: array.tobytes() for name, array in tree_named(read_step(training.workdir, step)[1]).items()}


def read(terminal):
    try:
        return os.read(terminal, 1000)
    except BlockingIOError:  # nothing new
        return b''


@pytest.mark.fault('F20', 'two runs into one directory at the same moment')
def test_of_two_runs_one_trains_and_the_other_is_told_by_whom(training, reference, seen):
    runs = [training.start(), training.start()]
    ends = sorted((run.end(), run.pid) for run in runs)
    ((code, said), winner), ((other_code, other_said), _) = ends
    assert (code, other_code) == (0, 2), said + other_said
    assert f'run.lock: in use by process {winner} on ' in other_said and f'kill {winner}' in other_said
    assert training.repeated(reference) == 0
    seen('one trained; the other: exit 2, names the owner')


@pytest.mark.fault('F20b', 'killed, then two runs at the same moment')
def test_a_killed_runs_lock_is_taken_over_by_one_of_two(training, reference, seen):
    run = training.start(hold=[8])
    training.wait_held(8)
    run.kill()
    assert (training.workdir / 'run.lock').exists()
    runs = [training.start(), training.start()]
    ends = sorted((run.end(), run.pid) for run in runs)
    ((code, said), winner), ((other_code, other_said), _) = ends
    assert (code, other_code) == (0, 2), said + other_said
    assert f'in use by process {winner} on ' in other_said
    assert f'taken over from process {run.pid} on ' in said + other_said
    assert not (training.workdir / 'run.lock').exists()
    repeated = training.repeated(reference)
    assert repeated <= 6
    seen('one took the lock over, with a notice', repeated)


@pytest.mark.fault('F21', 'clock jumps back an hour, then forward by a day')
def test_a_clock_that_jumps_changes_nothing(training, reference, seen):
    run = training.start(hold=[5], environment={'RVM_CLOCK': '2:-3600,3:86400'})
    training.wait_held(5)
    code, said = training.start().end()
    assert code == 2 and f'in use by process {run.pid}' in said
    training.release(5)
    code, said = run.end()
    assert code == 0, said
    left = re.findall(r'left (\d+):(\d+)\n', said)
    assert len(left) > 9 and all(int(minutes) < 5 for minutes, _ in left)
    paces = [entry['clips_per_second'] for entry in training.logged('metrics.jsonl') if 'clips_per_second' in entry]
    assert len(paces) > 9 and all(0.01 < pace < 10_000 for pace in paces)
    assert training.steps() == ['9', '12', '14']
    assert training.repeated(reference) == 0
    seen('lock kept, remaining time plausible, nothing deleted early')


@pytest.mark.fault('F22', 'a file in place of the TensorBoard folder')
def test_without_tensorboard_a_run_goes_on_with_one_warning(training, reference, seen):
    training.workdir.mkdir()
    (training.workdir / 'tensorboard').write_text('a file')
    said = training.finish()
    assert said.count('tensorboard: not written (') == 1 and said.count('training continues, this is printed once') == 1
    assert training.repeated(reference) == 0
    seen('one warning, metrics.jsonl complete')


@pytest.mark.fault('F22b', 'no disk space for TensorBoard')
def test_a_full_quota_for_tensorboard_costs_one_warning(training, reference, seen):
    said = training.finish(environment={'RVM_FULL': 'events'}, log__images_every=1)
    assert said.count('tensorboard: not written (No space left on device)') == 1
    assert said.count('training continues, this is printed once') == 1
    assert len(list((training.workdir / 'images').glob('reconstruction_*.png'))) == STEPS
    assert training.repeated(reference) == 0
    seen('one warning, metrics.jsonl and pictures complete')


@pytest.mark.fault('F23', 'metrics.jsonl deleted while running')
def test_numbers_that_are_deleted_start_again(training, reference, seen):
    run = training.start(hold=[5])
    training.wait_held(5)
    (training.workdir / 'metrics.jsonl').unlink()
    training.release(5)
    code, said = run.end()
    assert code == 0, said
    losses = training.losses()
    assert losses and sorted(losses) == list(range(STEPS + 1 - len(losses), STEPS + 1))
    assert losses.items() <= reference.losses().items()
    assert training.clips() == reference.clips() and state(training) == state(reference)
    seen('continued, later steps logged')


@pytest.mark.fault('F23b', 'metrics.jsonl moved away while running, then SIGTERM')
def test_numbers_that_are_rotated_are_all_there(training, reference, seen):
    run = training.start(hold=[5])
    training.wait_held(5)
    metrics, old = (training.workdir / name for name in ('metrics.jsonl', 'metrics.old.jsonl'))
    metrics.rename(old)
    run.signal(signal.SIGTERM)
    training.release(5)
    code, said = run.end()
    assert code == 75, said
    training.finish()
    metrics.write_bytes(old.read_bytes() + metrics.read_bytes())
    assert training.repeated(reference) == 0
    assert state(training) == state(reference)
    seen('no line lost')


@pytest.mark.fault('F23c', 'output piped into head; stdout or stderr closed')
@pytest.mark.parametrize(
    'streams', ['| head -n 1', '2>&1 | head -n 1', '>&-', '2>&-', '<&- >&- 2>&-'],
    ids=['stdout to head', 'both to head', 'no stdout', 'no stderr', 'no stream'],
)  # fmt: skip
def test_a_run_goes_on_when_nobody_reads(streams, training, reference, seen):
    run = training.start(shell=streams, hold=[5])
    training.wait_held(5)
    if '|' not in streams:
        targets = [os.readlink(f'/proc/{run.pid}/fd/{number}') for number in (1, 2)]
        assert all(target == os.devnull or 'pipe:' in target for target in targets), targets
    training.release(5)
    code, said = run.end()
    assert code == 0, said
    assert 'Error' not in said
    assert training.repeated(reference) == 0
    assert state(training) == state(reference)
    seen('exit 0, nothing lost')


@pytest.mark.fault('F23e', 'terminal closed while the progress bar is shown')
def test_a_run_outlives_its_terminal(training, reference, seen):
    here, there = os.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as with `disown`
    run = training.start(shell=f'> {os.ttyname(there)}', hold=[5], environment={'TERM': 'xterm'})
    signal.signal(signal.SIGHUP, before)
    os.set_blocking(here, False)
    shown = []
    training.wait_held(5, meanwhile=lambda: shown.append(read(here)))
    assert b'compiling' in b''.join(shown)
    training.release(5)
    os.close(there)
    os.close(here)
    code, said = run.end()
    assert code == 0, said
    assert 'Error' not in said
    assert training.repeated(reference) == 0
    assert state(training) == state(reference)
    seen('exit 0, nothing lost')


@pytest.mark.fault('F23d', 'SIGTERM when nobody reads the output')
@pytest.mark.parametrize('streams', ['<&- >&- 2>&-', '2>&1 | head -n 1'], ids=['no stream', 'to head'])
def test_a_signal_is_obeyed_when_nobody_reads(streams, training, reference, seen):
    run = training.start(shell=streams, hold=[5])
    training.wait_held(5)
    os.kill(json.loads((training.workdir / 'run.lock').read_text())['pid'], signal.SIGTERM)
    training.release(5)
    code, said = run.end()
    assert code == 75, said
    training.finish()
    assert training.repeated(reference) == 0
    seen('saved, exit 75, resumed')

"""Changes between two starts of a run: refused with the difference, or allowed and recorded."""

import json
import os
import shutil
import signal

import pytest

STEPS = 14  # as in the reference


@pytest.fixture
def begun(training, reference):
    """A Training that ended right after step 9."""
    training.take_over(reference, 9)
    return training


@pytest.fixture
def copied(tmp_path, videos):
    """A copy of the videos, to be changed."""
    return shutil.copytree(videos, tmp_path / 'videos')


def refuse(training, **overrides):
    """The line that refuses a start, before the step is compiled."""
    code, said = training.start(environment={'JAX_LOG_COMPILES': '1'}, **overrides).end()
    assert code == 2, said
    assert 'Compiling jit(train_step)' not in said
    return said.splitlines()[-1]


def changes(training):
    """The changes in config.json, as [(step, change), ...]."""
    run = json.loads((training.workdir / 'config.json').read_text())
    return [(entry['step'], entry['change']) for entry in run['changes']]


@pytest.mark.slow
@pytest.mark.fault('F9', 'another model and optimizer in the config')
def test_another_model_or_optimizer_is_refused(begun, reference, seen):
    said = refuse(begun, model__size='s', model__core='self_attention', model__precision='bf16', optim__b1=0.8)
    for change in (
        "model.size was 'tiny', now 's'", "model.core was 'rvmrnn', now 'self_attention'",
        "model.precision was 'float32', now 'bf16'", 'optim.b1 was 0.9, now 0.8',
    ):  # fmt: skip
        assert change in said
    assert f'--config.init_from={begun.workdir}' in said and 'allow_change' not in said
    begun.finish()
    repeated = begun.repeated(reference)
    assert repeated == 0
    seen('exit 2 with all differences; the old command resumed', repeated)


@pytest.mark.slow
@pytest.mark.fault('F9b', 'another model, config.json removed')
def test_another_tree_is_refused_and_leaves_no_trace(begun, reference, seen):
    (begun.workdir / 'config.json').unlink()
    (begun.workdir / 'data_manifest.json').unlink()
    said = refuse(begun, model__core='mamba')
    assert 'does not fit this config (missing: ' in said and 'unexpected: ' in said
    said = refuse(begun, model__core_mlp=64)
    assert 'does not fit this config (shape: ' in said and 'now [' in said
    begun.finish()
    assert begun.repeated(reference) == 0
    seen('exit 2: missing, unexpected, shape; the old command resumed')


@pytest.mark.slow
@pytest.mark.fault('F10', 'videos added, removed, replaced, shuffled; other seed; other batch')
def test_other_data_are_refused_with_the_difference(begun, reference, copied, seen):
    first, second = copied / 'clip_00000.mp4', copied / 'clip_00001.mp4'
    shutil.copy(first, copied / 'more.mp4')
    assert 'changed since this run began (added more.mp4)' in refuse(begun, data__path=copied)
    (copied / 'more.mp4').unlink()

    contents = first.read_bytes()
    middle = len(contents) // 2
    first.write_bytes(contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :])
    os.utime(first, (1, 1))
    second.rename(copied / 'clip_00009.mp4')
    said = refuse(begun, data__path=copied)
    assert '(added clip_00009.mp4; removed clip_00001.mp4; changed clip_00000.mp4)' in said
    assert '--config.data.allow_change=true' in said
    first.write_bytes(contents)
    (copied / 'clip_00009.mp4').rename(second)

    names = sorted(path.name for path in copied.iterdir() if path.suffix == '.mp4')
    (copied / 'list.txt').write_text('\n'.join(names[::-1]))
    assert 'the same files in another order or number' in refuse(begun, data__path=copied / 'list.txt')

    said = refuse(begun, seed=1, batch_size=8)
    assert 'batch_size was 4, now 8; seed was 0, now 1' in said and 'data.allow_change=true' in said
    begun.finish(data__path=copied)  # the same files again, elsewhere
    assert begun.repeated(reference) == 0
    seen('exit 2 with the difference each time; resumed with the old data')


@pytest.mark.slow
@pytest.mark.fault('F10b', 'a video added, which is allowed')
def test_other_data_that_are_allowed_go_on_and_are_written_down(training, reference, copied, seen):
    missing = copied / 'clip_00007.mp4'
    missing.rename(copied.parent / missing.name)
    run = training.start(data__path=copied)
    run.wait_for('step 4/')
    run.signal(signal.SIGTERM)
    assert run.end()[0] == 75
    saved = max(training.losses())
    (copied.parent / missing.name).rename(missing)

    notice = 'the data changed since this run began, continuing as allowed: added clip_00007.mp4'
    said = training.finish(data__path=copied, data__allow_change='true')
    assert notice in said and f'resuming at step {saved}' in said
    assert changes(training) == [(saved, notice)]
    expected, found = reference.clips(), training.clips()
    assert all(found[step] == expected[step] for step in range(saved + 1, STEPS + 1))
    assert sorted(training.losses()) == list(range(1, STEPS + 1))
    assert 'nothing to do' in training.finish()  # from now on these are its data
    seen('resumed with all eight videos, recorded')


@pytest.mark.slow
@pytest.mark.fault('F10c', 'other seed and batch, which is allowed')
def test_other_clips_that_are_allowed_go_on_and_are_written_down(begun, reference, seen):
    said = begun.finish(seed=1, batch_size=8, data__allow_change='true')
    assert 'resuming at step 9' in said
    [(step, change)] = changes(begun)
    assert step == 9 and change.endswith('batch_size was 4, now 8; seed was 0, now 1')
    for step in range(10, STEPS + 1):
        [(videos, _)] = begun.clips()[step]
        assert sorted(videos) == list(range(8))
    losses, before = begun.losses(), reference.losses()
    assert all(losses[step] == before[step] for step in range(1, 10))
    seen('resumed with other clips, recorded')


@pytest.mark.slow
@pytest.mark.fault('F26', 'resumed at the last step')
def test_a_finished_run_has_nothing_to_do(training, reference, command, seen):
    training.take_over(reference)
    assert f'nothing to do, all {STEPS} steps are done' in training.finish()
    assert training.repeated(reference) == 0
    assert training.steps() == reference.steps()
    code, said = command('info', training.workdir).end()
    assert code == 0, said
    seen('exit 0, nothing to do')


@pytest.mark.slow
@pytest.mark.fault('F26b', 'resumed at the end of an epoch, and in its middle')
@pytest.mark.parametrize('step', [12, 9], ids=['end', 'middle'])  # eight videos are two steps
def test_after_a_restart_the_next_clip_of_the_epoch_comes(step, training, reference, seen):
    training.take_over(reference, step)
    assert f'resuming at step {step}' in training.finish()
    repeated = training.repeated(reference)
    assert repeated == 0
    clips = training.clips()
    for first in range(1, STEPS, 2):
        assert sorted(clips[first][0][0] + clips[first + 1][0][0]) == list(range(8))
    seen('the right clips', repeated)


@pytest.mark.slow
@pytest.mark.fault('F26c', 'steps raised after the end, then lowered')
def test_another_schedule_needs_a_flag_and_is_written_down(training, reference, seen):
    from rvm_jax import config
    from rvm_jax.training.optimizer import learning_rate

    training.take_over(reference)
    said = refuse(training, steps=20, optim__peak_lr=1e-3)
    assert 'optim.peak_lr was 0.002, now 0.001; steps was 14, now 20' in said
    assert 'continue with --config.optim.allow_change=true' in said

    said = training.finish(steps=20, optim__peak_lr=1e-3, optim__allow_change='true')
    assert 'continuing as allowed: optim.peak_lr was 0.002, now 0.001; steps was 14, now 20' in said
    assert [step for step, _ in changes(training)] == [STEPS]
    expected = learning_rate(config.load('configs/tiny.py', ['optim.peak_lr=1e-3']).optim, 20)
    rates = {entry['step']: entry['learning_rate'] for entry in training.logged('metrics.jsonl')}
    assert {step: rates[step] for step in range(15, 21)} == {step: float(expected(step - 1)) for step in range(15, 21)}
    assert rates[15] > 0
    before = reference.losses()
    assert {step: loss for step, loss in training.losses().items() if step <= STEPS} == before

    said = refuse(training, steps=10, optim__peak_lr=1e-3, optim__allow_change='true')
    assert 'config.steps=10: 20 steps are done already' in said
    assert 'nothing to do' in training.finish(steps=20, optim__peak_lr=1e-3)
    seen('exit 2; with optim.allow_change it resumed; fewer steps: exit 2')

"""Steps that are not finite: they do not change the weights, and their clips are recorded."""

import pytest


@pytest.mark.slow
@pytest.mark.fault('F16', 'NaN in the pixels of one step')
def test_a_poisoned_step_is_skipped_counted_and_written_down(training, reference, videos, seen):
    training.finish(environment={'RVM_POISON': '5:nan'})
    losses = training.losses()
    assert losses[5] is None and {step: losses[step] for step in range(1, 5)} == {
        step: reference.losses()[step] for step in range(1, 5)
    }
    assert all(losses[step] for step in range(6, 15))
    assert [entry['skipped_steps'] for entry in training.logged('metrics.jsonl') if 'loss' in entry][3:6] == [0, 1, 1]
    (entry,) = training.logged('nonfinite.jsonl')
    (clips,) = training.clips()[5]
    names = sorted({f'{videos}/clip_{video:05}.mp4' for video in clips[0]})
    assert entry == {'step': 5, 'videos': names, 'number': len(names)}
    seen('skipped, counted, videos in nonfinite.jsonl')


@pytest.mark.slow
@pytest.mark.fault('F16b', 'NaN in the pixels of every step from the 8th on')
def test_a_run_that_stays_nonfinite_keeps_a_good_checkpoint(training, reference, seen):
    poison = ','.join(f'{step}:nan' for step in range(8, 15))
    code, said = training.start(environment={'RVM_POISON': poison}, optim__max_nonfinite=3).end()
    assert code == 76, said
    assert (
        'step 10: the loss or gradients of 3 steps in a row were NaN or infinite; the last one used clips of ' in said
    )
    assert [entry['step'] for entry in training.logged('nonfinite.jsonl')] == [8, 9, 10]
    assert training.steps()[-1] == '9'  # with the weights of step 7: what was skipped changed nothing
    said = training.finish(optim__max_nonfinite=3)
    assert 'resuming at step 9' in said
    assert [training.losses()[step] for step in (8, 9)] == [None, None] and training.losses()[10]
    assert training.clips()[14] == reference.clips()[14]
    seen('exit 76, checkpoint good')

"""Disks that fill up, go away or refuse: earlier steps stay good, and saving works again when there is space."""

import shutil
import signal

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.fault('F4', 'no disk space for one checkpoint')
def test_a_full_disk_costs_a_line_and_the_next_save_works(training, reference, seen):
    run = training.start(hold=[6, 8], checkpoint__keep=9)
    training.wait_held(6)
    training.wait_for_checkpoint(3)
    run.limit_files(300_000)
    training.release(6)
    said = run.wait_for('not written: File')
    assert 'File too large (needs about' in said and 'the next save tries again, failure 1 of 3' in said
    run.limit_files(-1)
    training.release(8)
    code, said = run.end()
    assert code == 0, said
    assert training.steps() == ['3', '9', '12', '14']
    repeated = training.repeated(reference)
    seen('one line, training continued, later saves worked', repeated)


@pytest.mark.fault('F4b', 'no disk space for any checkpoint')
def test_a_disk_that_stays_full_keeps_the_steps_before(training, reference, seen):
    run = training.start(hold=[4], checkpoint__every=2)
    training.wait_held(4)
    training.wait_for_checkpoint(2)
    run.limit_files(300_000)
    training.release(4)
    code, said = run.end()
    assert code == 2, said
    assert 'failure 3 of 3' in said and 'could not be saved (File too large)' in said and 'newest good step: 2' in said
    assert training.steps() == ['2']
    assert 'resuming at step 2' in training.finish(checkpoint__every=2)
    seen('3 lines, then exit 2; the step before is intact', training.repeated(reference))


@pytest.mark.fault('F5', 'workdir that cannot be made')
def test_an_unwritable_workdir_ends_before_anything_is_compiled(training, tmp_path, seen):
    (tmp_path / 'run').write_text('a file')
    code, said = training.start().end()
    assert code == 2, said
    assert f'{training.workdir}: cannot be written' in said and len(said.splitlines()) == 1
    assert (tmp_path / 'run').read_text() == 'a file'
    seen('exit 2, one line')


@pytest.mark.fault('F5b', 'folder of checkpoints replaced by a file')
def test_a_file_in_place_of_checkpoints_ends_like_a_full_disk(training, reference, tmp_path, seen):
    run = training.start(hold=[4], checkpoint__every=2)
    training.wait_held(4)
    training.wait_for_checkpoint(2)
    checkpoints = training.workdir / 'checkpoints'
    checkpoints.rename(tmp_path / 'aside')
    checkpoints.write_text('')
    training.release(4)
    code, said = run.end()
    assert code == 2, said
    assert 'failure 3 of 3' in said
    checkpoints.unlink()
    (tmp_path / 'aside').rename(checkpoints)
    assert 'resuming at step' in training.finish(checkpoint__every=2)
    seen('3 lines, then exit 2; resumes when it is back', training.repeated(reference))


@pytest.mark.fault('F5c', 'workdir deleted during the run')
def test_a_workdir_that_was_deleted_is_made_again(training, reference, command, seen):
    run = training.start(hold=[4], checkpoint__every=2)
    training.wait_held(4)
    training.wait_for_checkpoint(2)
    shutil.rmtree(training.workdir)
    training.release(4)
    code, said = run.end()
    assert code == 0, said
    assert 'checkpoints: was deleted during this run; made again' in said
    assert 'run.lock: was deleted during this run; put back' in said
    assert 'nothing to do' in training.finish()  # which writes config.json again
    code, said = command('export', '--model', training.workdir, '--output', training.workdir.with_name('export')).end()
    assert code == 0, said
    assert training.clips() == reference.clips() and training.losses()[14] == reference.losses()[14]
    seen('reported, made again, exit 0')


@pytest.mark.fault('F24', 'old checkpoints cannot be deleted')
def test_steps_that_cannot_be_deleted_are_named_and_do_no_harm(training, reference, seen):
    said = training.finish(environment={'RVM_DELETE': 'fails'}, checkpoint__every=2, checkpoint__keep=1)
    assert 'checkpoints/2: old step not deleted (Permission denied)' in said
    assert {'12', '14'} & set(training.steps())
    assert 'nothing to do' in training.finish(checkpoint__every=2, checkpoint__keep=1)
    assert training.steps() == ['14']
    seen('named, gone at the next start', training.repeated(reference))


@pytest.mark.fault('F24b', 'SIGKILL in the middle of a deletion')
def test_a_half_deleted_step_is_never_chosen(training, reference, seen):
    run = training.start(environment={'RVM_DELETE': 'pauses'}, checkpoint__every=2, checkpoint__keep=1)
    run.wait_for('in the middle of deleting')
    run.kill()
    complete = [int(step) for step in training.steps() if step.isdecimal()]
    assert complete and any('deleted' in step for step in training.steps())
    said = training.finish(checkpoint__every=2, checkpoint__keep=1)
    assert f'resuming at step {max(complete)}' in said and 'damaged' not in said
    assert training.steps() == ['14']
    seen('newest complete step used', training.repeated(reference))


@pytest.mark.fault('F24c', 'SIGTERM while every step is kept')
def test_every_nth_step_stays(training, reference, seen):
    run = training.start(hold=[10], checkpoint__every=2, checkpoint__keep=1, checkpoint__keep_every=4)
    training.wait_held(10)
    run.signal(signal.SIGTERM)
    training.release(10)
    assert run.end()[0] == 75
    training.finish(checkpoint__every=2, checkpoint__keep=1, checkpoint__keep_every=4)
    assert training.steps() == ['4', '8', '12', '14']
    seen('4, 8, 12 kept', training.repeated(reference))

"""Checkpoints that are damaged on the disk: they are named and not used; the newest good one is used instead."""

import re
import shutil

import pytest


def largest(folder):
    """The file that holds most of the arrays."""
    return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.long
@pytest.mark.fault('F6', 'a bit flipped in the newest step')
def test_one_wrong_bit_is_named_and_the_step_before_is_used(training, reference, seen):
    training.take_over(reference)
    flip_a_bit(largest(training.workdir / 'checkpoints' / '14'))
    said = training.finish()
    assert re.search('step 14 is damaged and not used: .*checksum', said) and 'resuming at step 12' in said
    repeated = training.repeated(reference)
    assert repeated == 2
    seen('named, the step before is used', repeated)


@pytest.mark.slow
@pytest.mark.fault('F7', 'files cut short, emptied, missing; no manifest; unknown files')
def test_damage_of_every_kind_leads_back_to_the_newest_good_step(training, reference, seen):
    training.take_over(reference)
    checkpoints = training.workdir / 'checkpoints'
    data = largest(checkpoints / '14')
    data.write_bytes(data.read_bytes()[:-1])
    (checkpoints / '12' / 'state' / '_METADATA').write_bytes(b'')
    largest(checkpoints / '9').unlink()
    (checkpoints / '6' / 'rvm_manifest.json').unlink()
    (checkpoints / 'foo').mkdir()
    (checkpoints / '99.orbax-checkpoint-tmp').mkdir()
    said = training.finish(checkpoint__keep=9)
    for step in (14, 12, 9):
        assert f'step {step} is damaged and not used' in said
    assert 'ignored, not steps of this run: 6, foo' in said and 'resuming at step 3' in said
    assert training.steps() == ['3', '6', '9', '12', '14', 'foo']
    repeated = training.repeated(reference)
    assert repeated == 11
    seen('each named, newest good step used', repeated)


@pytest.mark.slow
@pytest.mark.fault('F7b', 'every step damaged')
def test_a_run_does_not_start_over_damaged_steps(training, reference, seen):
    training.take_over(reference)
    for folder in (training.workdir / 'checkpoints').iterdir():
        flip_a_bit(largest(folder))
    before = {path: path.read_bytes() for path in training.workdir.rglob('*') if path.is_file()}
    code, said = training.start().end()
    assert code == 2, said
    assert 'all checkpoints are damaged' in said
    assert {path: path.read_bytes() for path in training.workdir.rglob('*') if path.is_file()} == before
    shutil.copytree(
        reference.workdir / 'checkpoints' / '12', training.workdir / 'checkpoints' / '12', dirs_exist_ok=True
    )
    assert 'resuming at step 12' in training.finish()
    seen('exit 2, nothing touched', training.repeated(reference))

import os
import pathlib

import numpy as np
import pytest

from rvm_jax import cli, pretrained
from rvm_jax.models import param_names

RELEASED = pathlib.Path(__file__).parent / 'goldens' / 'official_tiny_64.npz'


@pytest.fixture(scope='module')
def workdir(make_workdir, tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """A file in the released layout."""
    path = tmp_path_factory.mktemp('released') / 'rvm.npz'
    with np.load(RELEASED) as file:
        np.savez(path, **{key.removeprefix('params/'): file[key] for key in file.files if key.startswith('params/')})
    return path


def export(model, output, *words):
    return cli.run('export', ['--model', str(model), '--output', str(output), *words])


def assert_same(left, right):
    left, right = param_names.to_named(pretrained.load(left)), param_names.to_named(pretrained.load(right))
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[name], right[name]) for name in left)


def test_a_workdir_becomes_an_export_folder_with_a_model_card(workdir, tmp_path, capsys):
    assert export(workdir, tmp_path / 'out') == 0
    assert capsys.readouterr().out.startswith(f'{tmp_path}/out: ') and not list(tmp_path.glob('.*'))
    assert_same(workdir, tmp_path / 'out')
    card = (tmp_path / 'out' / 'README.md').read_text()
    for row in (
        '| Recipe | rvm train --config configs/tiny.py |',
        '| Data | clips, 2 videos |',
        '| Trained for | 20 of 20 steps, 160 clips |',
        '| Training loss | 0.25000 at step 20 |',
        '| Held-out loss | 0.40000 at step 10 (copying the last source frame 0.70000) |',
        '| Written by | rvm_jax 0.1.0 |',
    ):
        assert row in card
    assert '/private' not in card and '/home' not in card


def test_an_earlier_step_is_exported_with_its_own_numbers(workdir, tmp_path, capsys):
    assert export(workdir, tmp_path / 'out', '--step', '10') == 0
    assert 'step 10' in capsys.readouterr().out
    assert (pretrained.load(tmp_path / 'out').encoder.cls_token[...] == 10).all()
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert '| Trained for | 10 of 20 steps' in card and '| Training loss | 0.50000 at step 10 |' in card


def test_released_weights_survive_an_export_bit_for_bit(released, tmp_path):
    assert export(released, tmp_path / 'folder') == 0
    assert '| Converted from | rvm.npz |' in (tmp_path / 'folder' / 'README.md').read_text()
    assert export(tmp_path / 'folder', tmp_path / 'back.npz', '--format', 'official') == 0
    with np.load(released) as before, np.load(tmp_path / 'back.npz') as after:
        assert set(before.files) == set(after.files)
        assert all(before[key].tobytes() == after[key].tobytes() for key in before.files)


@pytest.mark.parametrize(
    ('output', 'words', 'reason'),
    [
        ('out.npz', [], 'is not a name for --format pretrained; add --format official, or name a folder'),
        ('out', ['--format', 'official'], 'is not a name for --format official; let --output end in .npz'),
        ('there.npz', ['--format', 'official'], 'is already there'),
        ('foreign', [], 'exists and is not an export folder'),
        ('out', ['--step', '5'], '--step 5: '),
        ('there.npz/out', [], 'cannot be written (File exists)'),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(released, tmp_path, capsys, output, words, reason):
    (tmp_path / 'there.npz').write_bytes(b'precious')
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'thesis.tex').write_text('precious')
    assert export(released, tmp_path / output, *words) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count('\n') == 1
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['foreign', 'there.npz', 'thesis.tex']
    assert (tmp_path / 'there.npz').read_bytes() == b'precious'


def test_a_model_is_not_written_over_itself(released, tmp_path, capsys):
    assert export(released, tmp_path / 'folder') == 0
    assert export(tmp_path / 'folder', tmp_path / 'folder') == 2
    assert 'is the model itself' in capsys.readouterr().err


def test_another_model_is_replaced_only_on_request(released, tmp_path, capsys):
    for name, words in (('folder', ()), ('back.npz', ('--format', 'official'))):
        assert export(released, tmp_path / name, *words) == 0
        assert export(released, tmp_path / name, *words) == 2
        assert f'{name}: is already there; pass --overwrite, or choose another' in capsys.readouterr().err
        assert export(released, tmp_path / name, *words, '--overwrite') == 0


def test_a_workdir_without_a_good_step_is_named(workdir, make_workdir, tmp_path, capsys):
    assert export(workdir, tmp_path / 'out', '--step', '15') == 2
    assert 'choose from [10, 20]' in capsys.readouterr().err
    assert export(make_workdir(tmp_path / 'empty', steps=()), tmp_path / 'out') == 2
    assert 'does not have a checkpoint' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_an_output_that_is_a_link_stays_one(released, tmp_path):
    (tmp_path / 'disk').mkdir()
    os.symlink(tmp_path / 'disk', tmp_path / 'out')
    for words in ((), ('--overwrite',)):
        assert export(released, tmp_path / 'out', *words) == 0
    assert os.path.islink(tmp_path / 'out') and sorted(os.listdir(tmp_path)) == ['disk', 'out']
    assert_same(released, tmp_path / 'disk')


def test_an_output_behind_an_equals_sign_may_begin_at_home(released, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cli.run('export', [f'--model={released}', '--output=~/out']) == 0
    assert cli.run('info', ['~/out']) == 0
    pretrained.save_pretrained(pretrained.load('~/out'), '~/again')
    assert sorted(os.listdir(tmp_path)) == ['again', 'out']


@pytest.mark.parametrize('output', ['.', '..', '/', '~'])
def test_an_output_that_must_not_be_replaced_is_refused_first(tmp_path, monkeypatch, capsys, output):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for folder in 'home', 'here/inner':
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'here' / 'inner')
    assert export('no-such-model', output) == 2  # said before the model is looked at
    assert 'so it cannot be replaced; name a new folder in it' in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ['here', 'home'] and os.path.samefile('.', tmp_path / 'here' / 'inner')


def test_a_folder_that_only_looks_like_an_export_is_kept(released, tmp_path, capsys):
    for name, text in {'README.md': '# My project', 'config.json': '{"model_type": "dinov2"}'}.items():
        (tmp_path / name).write_text(text)
        assert export(released, tmp_path) == 2
        assert 'exists and is not an export folder' in capsys.readouterr().err
        assert (tmp_path / name).read_text() == text

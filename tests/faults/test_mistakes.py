"""Mistakes in the command line: all are reported together, before anything is compiled or written."""

import pytest

COMPILES = {'JAX_LOG_COMPILES': '1'}  # JAX then logs each program that it compiles


@pytest.fixture
def refused(training):
    """refused(**overrides): the last lines of the command, which must leave no files behind."""

    def refuse(environment=(), **overrides):
        code, said = training.start(environment=COMPILES | dict(environment), **overrides).end()
        assert code == 2, said
        assert 'Compiling' not in said
        assert not training.workdir.exists()
        return said.removeprefix('rvm train: ').splitlines()

    return refuse


@pytest.mark.fault('F19', 'ten typos and wrong values in one command')
def test_all_mistakes_are_told_at_once_a_line_each(refused, tmp_path, seen):
    missing = tmp_path / 'no' / 'videos'
    lines = refused(
        stepz=5, optim__peek_lr=1e-3, model__core__layers=3,  # unknown at three depths
        checkpoint__every=1.5, log__every='often', model__encoder_path='None',  # of another type
        batch_size=-4, model__mask_ratio=1.0, data__image_size=50,  # out of range
        data__path=missing,
    )  # fmt: skip
    expected = (
        '--config.stepz: is not a key; did you mean steps?',
        '--config.optim.peek_lr: is not a key; did you mean optim.peak_lr?',
        '--config.model.core.layers: is not a key; did you mean model.core_layers?',
        '--config.checkpoint.every=1.5: expected int; give something like 1000',
        '--config.log.every=often: expected int; give something like 100',
        '--config.model.encoder_path=None: is not text; leave it empty, --config.model.encoder_path=, for none',
        'config.batch_size=-4: must be above 0; give a positive number',
        'config.model.mask_ratio=1.0: must be below 1; give less than 1',
        'config.data.image_size=50: is not a multiple of the patch, 8 pixels; take 48',
        f'{missing}: does not exist; give a folder of videos',
    )
    for beginning in expected:
        [line] = [line for line in lines if line.startswith(beginning)]
        lines.remove(line)
    assert lines == []
    seen('exit 2, one line for each, nothing written')


@pytest.mark.fault('F19b', 'a batch that cannot be split over the devices')
def test_what_does_not_fit_the_devices_is_refused_early(refused, seen):
    four = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    [line] = refused(four, batch_size=6)
    assert line.startswith('config.batch_size=6: cannot be split evenly over 4 devices')
    [line] = refused(four, mesh__data=3, batch_size=12)
    assert line.startswith('config.mesh.data=3, fsdp=1: data x fsdp must be 4, the number of devices')
    seen('exit 2, nothing written')


@pytest.mark.fault('F19c', 'a folder without videos, a recipe with a typo')
def test_recipes_and_data_are_refused_as_kindly_as_values(refused, command, tmp_path, seen):
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'a.txt').write_text('no video')
    [line] = refused(data__path=tmp_path / 'notes')
    assert 'holds no video (found only 1 .txt)' in line

    recipe = tmp_path / 'mine.py'
    recipe.write_text('from rvm_jax import config\n\ndef get_config():\n    c = config.default()\n')
    recipe.write_text(recipe.read_text() + '    c.optim.peaklr = 1.0\n    return c\n')
    code, said = command('train', '--config', recipe, '--workdir', tmp_path / 'run').end()
    assert code == 2 and 'Did you mean "peak_lr"' in said and said.count('\n') == 1
    code, said = command('train', '--config', 'configs/tini.py', '--workdir', tmp_path / 'run').end()
    assert code == 2 and 'configs/tini.py: does not exist; name a file such as configs/tiny.py\n' in said
    code, said = command('train', '--config', 'configs/tiny.py', '--workdri', tmp_path / 'run').end()
    assert code == 2 and '--workdir' in said
    assert not (tmp_path / 'run').exists()
    seen('exit 2, nothing written')

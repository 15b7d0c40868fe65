"""Files that were written on 2026-11-30 (version 0.1.0) still open: tests/goldens/formats."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from rvm_jax import cli, pretrained

FORMATS = pathlib.Path(__file__).parent / 'goldens' / 'formats'


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    return ended.value.code


def test_an_export_folder_gives_the_same_features():
    model = pretrained.load(str(FORMATS / 'export'))
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16, 3), np.uint8)
    features_BTMD, _ = model.encode(frames)
    np.testing.assert_allclose(features_BTMD, np.load(FORMATS / 'features.npy'), atol=1e-5)


def test_shards_are_undamaged_and_a_workdir_is_known(capsys, tmp_path):
    assert not run('info', FORMATS / 'shards', '--picture', tmp_path / 'sheet.png')
    assert '2 videos' in capsys.readouterr().out
    assert not run('info', FORMATS / 'workdir')
    assert '583,808 with decoder' in capsys.readouterr().out


def test_a_run_resumes(tmp_path):
    workdir = shutil.copytree(FORMATS / 'workdir', tmp_path / 'run')
    begun = json.loads((workdir / 'config.json').read_text())['config']
    values = {f'{part}.{key}': begun[part][key] for part, key in (
        ('data', 'image_size'), ('data', 'num_workers'), ('log', 'images_every'), ('model', 'unroll'),
        ('checkpoint', 'every'), ('optim', 'warmup'))}  # fmt: skip
    values |= {'batch_size': 8, 'steps': 3, 'log.every': 1, 'data.path': FORMATS / 'videos', 'optim.allow_change': True}
    code = run(
        'train', '--config', 'configs/tiny.py', '--workdir', workdir,
        *(f'--config.{key}={value}' for key, value in values.items()),
    )  # fmt: skip
    assert not code
    steps = [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert steps == [2, 3]

"""`rvm sweep`: cells of an ablation trained, probed and shown side by side."""

import json
import os
import pathlib
import types

import cv2
import pytest

from rvm_jax import ablation, cli, config
from rvm_jax.errors import ConfigErrors, UserError
from rvm_jax.probing import registry, runner
from rvm_jax.probing.demo import demo_suite
from rvm_jax.probing.tables import write_sweep
from rvm_jax.synthetic import demo_videos

SMALL = (
    'model.unroll=false', 'model.core_layers=1', 'data.image_size=16', 'data.num_target=1', 'data.num_workers=0',
    'batch_size=8', 'steps=2', 'log.every=1', 'log.images_every=0', 'log.eval_clips=8', 'mesh.data=-1',
)  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def few_videos():
    """The few videos that every sweep of this file trains on."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, number in {'NUM_TRAIN': 8, 'NUM_HELD_OUT': 8, 'SIDE': 24}.items():
            monkeypatch.setattr(demo_videos, name, number)
        yield


@pytest.fixture
def probes(monkeypatch):
    """A probe whose score is `flip` of the cell that it probes; the folders that were probed."""
    return patch_probes(monkeypatch)


def trained_flip(path):
    """What a cell was trained with; path is its probe or its export."""
    written = json.loads((pathlib.Path(path).parent / 'train' / 'config.json').read_text())
    return written['config']['data']['flip']


def patch_probes(monkeypatch):
    asked = []

    def run_benchmark(_, backbone, folder, *, seed, **__):
        asked.append(folder)
        return {'metric': 'flip', 'value': trained_flip(folder), 'higher_is_better': True}

    monkeypatch.setattr(runner, 'run_benchmark', run_benchmark)
    monkeypatch.setattr(registry, 'open_benchmark', lambda name, *_: types.SimpleNamespace(name=name))
    return asked


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(ablation of two cells, output of its sweep, folders that were probed, its table).

    The cells differ in data alone, so that they train with one compiled program.
    """
    folder = tmp_path_factory.mktemp('sweep')
    (folder / 'flips.py').write_text(
        'from rvm_jax import ablation\n\n\ndef get_ablation():\n    return ablation.Ablation(\n'
        "        question='flip', cells={name: (f'data.flip={name}',) for name in ('0.25', '0.75')})\n"
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = patch_probes(monkeypatch)
        assert cli.run('sweep', sweep(folder / 'flips.py', folder / 'out', '--task', 'davis', '--data', 'x')) == 0
    return folder / 'flips.py', folder / 'out', asked, (folder / 'out' / 'table.md').read_text()


def sweep(path, output, *words):
    flags = [f'--config.{override}' for override in SMALL]
    return ['--config', str(path), '--output', str(output), *words, *flags]


@pytest.mark.long
def test_cells_are_workdirs_with_exports_one_table_and_one_plot(trained):
    _, output, asked, table = trained
    assert '| flip | davis ↑ |' in table
    for name in ('0.25', '0.75'):
        assert f'| {name} | {name}0 |' in table
        cell = output / 'cells' / name / 'seed_0'
        assert '2' in os.listdir(cell / 'train' / 'checkpoints')
        assert (cell / 'export' / 'model.safetensors').exists()
    assert cv2.imread(str(output / 'plot.png')).shape[0] > 200
    assert len(asked) == 2


@pytest.mark.long
def test_trained_cells_stay_and_another_config_is_refused(trained, probes, capsys):
    path, output, *_ = trained
    line = sweep(path, output, '--task', 'davis', '--data', 'x')
    before = {path: path.stat().st_mtime_ns for path in output.rglob('metrics.jsonl')}
    videos = sorted((output / 'videos').rglob('*.mp4'))
    assert cli.run('sweep', line) == 0
    assert 'cell 2/2: flip 0.75, seed 0' in capsys.readouterr().out
    assert len(before) == 2 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(videos) == 16 and sorted((output / 'videos').rglob('*.mp4')) == videos
    assert cli.run('sweep', [*line, '--config.steps=3']) == 2
    assert 'was trained with another config; choose another --output' in capsys.readouterr().err


@pytest.mark.long
def test_cells_share_the_clips_of_the_demo_suite(trained, monkeypatch):
    asked, (path, output, *_) = [], trained
    monkeypatch.setattr(demo_suite, 'Clips', lambda suite, folder, size, **_: asked.append((folder, size)))

    def probe(backbone, clips, *, seed, name, **_):
        value = {'model': trained_flip(backbone.path), 'image encoder': 0.5, 'random weights': 0.125}[name]
        return {'motion': {'metric': 'top1', 'value': value, 'higher_is_better': True, 'scores': {'top1': value}}}

    monkeypatch.setattr(demo_suite, 'probe', probe)
    assert cli.run('sweep', sweep(path, output, '--task', 'demo')) == 0
    assert asked == [(str(output / 'clips'), 64)] * 2
    table = (output / 'table.md').read_text()
    for row in ('0.25 | 0.250', '0.75 | 0.750', '0.25: image encoder | 0.500', '0.75: random weights | 0.125'):
        assert f'| {row} |' in table


def test_several_seeds_are_shown_with_their_spread(tmp_path):
    def of_seed(value):
        return {'model': {'davis': {'metric': 'J&F', 'value': value, 'higher_is_better': True}}}

    lines = write_sweep('core', {'a': {0: of_seed(0.5), 1: of_seed(0.6)}, 'b': {0: of_seed(0.2)}}, str(tmp_path))
    assert (
        lines[0].split() == ['core', 'davis', '↑']
        and '0.550 ± 0.071' in lines[1]
        and lines[2].split() == ['b', '0.200']
    )


@pytest.mark.parametrize('name', ['source_frames', 'aggregator', 'data_scale', 'cores', 'frozen'])
def test_every_ablation_is_made_of_valid_configs(name, tmp_path):
    found = ablation.load(f'configs/ablations/{name}.py')
    cells = ablation.cells(found, found.recipe, ['data.path=videos'], [0], str(tmp_path))
    assert [cell.name for cell in cells] == list(found.cells) and len({cell.folder for cell in cells}) == len(cells)
    flat = [config.flatten(cell.config) for cell in cells]
    varied = {key for key in flat[0] if len({str(one[key]) for one in flat}) > 1}
    expected = {
        'source_frames': {'data.num_source'}, 'aggregator': {'model.core'}, 'data_scale': {'steps'},
        'cores': {'model.core'}, 'frozen': {'model.core', 'model.encoder', 'model.encoder_path'},
    }  # fmt: skip
    assert varied == expected[name]


def test_a_multiple_is_of_what_the_recipe_and_the_command_say(tmp_path):
    found = ablation.load('configs/ablations/data_scale.py')
    cells = ablation.cells(found, found.recipe, ['data.path=videos', 'steps=800'], [0], str(tmp_path))
    assert [cell.config.steps for cell in cells] == [100, 200, 400, 800]


def test_a_later_cell_starts_from_the_export_of_an_earlier_one(tmp_path):
    found = ablation.load('configs/ablations/frozen.py')
    first, *others = ablation.cells(found, found.recipe, ['data.path=videos'], [3], str(tmp_path))
    assert all(cell.config.model.encoder_path == first.export for cell in others)


def test_a_recipe_without_an_ablation_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match='is not an ablation'):
        ablation.load('configs/tiny.py')
    assert (
        cli.run(
            'sweep', ['--config', 'configs/ablations/cores.py', '--output', str(tmp_path / 'a'), '--config.steps=x']
        )
        == 2
    )
    assert not (tmp_path / 'a').exists()
    with pytest.raises(ConfigErrors):
        ablation.cells(types.SimpleNamespace(cells={'a': ('steps=0',)}), 'configs/tiny.py', [], [0], 'x')


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (('--task', 'ssv3'), '--task ssv3: is not a task'),
        (('--task', 'davis'), '--task davis: needs its dataset'),
        (('--task', 'davis', '--data', 'nowhere'), 'DAVIS'),
        (('--data', 'shards'), '--data with --task quick: the suite has settings and clips of its own'),
        (('--config.seed=5',), '--config.seed: a sweep trains each cell with each of --seeds'),
        (('--config.data.num_source=0',), 'data.num_source'),
    ],
)
def test_a_mistake_is_reported_before_training(tmp_path, capsys, words, expected):
    output = tmp_path / 'out'
    assert cli.run('sweep', ['--config', 'configs/ablations/cores.py', '--output', str(output), *words]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and expected in error and not output.exists()

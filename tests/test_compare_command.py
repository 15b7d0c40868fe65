"""`rvm compare` on folders as `rvm probe` leaves them."""

import dataclasses
import json

import pytest

from rvm_jax import cli
from rvm_jax.errors import UserError
from rvm_jax.probing import registry
from rvm_jax.probing.demo import demo_suite

RVM, DINO = 'weights/rvm_l.npz', 'weights/dinov2-large'
PUBLISHED = {  # arXiv 2605.19137, streaming readouts: SSv2, Waymo, Perception Test, ScanNet, nuScenes, average
    'rvm': (0.469, 0.727, 0.613, 0.1293, 36.00, 77.7),
    'rvmrnn': (0.671, 0.857, 0.637, 0.0900, 29.37, 96.8),
    'mamba': (0.633, 0.848, 0.654, 0.0963, 28.48, 95.3),
    'mambamix': (0.664, 0.850, 0.667, 0.0870, 28.13, 98.8),
    'gmmix': (0.669, 0.850, 0.694, 0.0885, 28.09, 99.4),
}


@pytest.fixture
def probed(tmp_path, monkeypatch):
    """probed(folder, task, value, path, ...): a folder with results.json in the layout of a benchmark."""
    monkeypatch.chdir(tmp_path)

    def write(
        folder, task, value, path=RVM, *, seed=0, streaming=False, settings=None, data=None, root='data', **facts
    ):
        of, is_trained = registry.BENCHMARKS[task].metric, registry.BENCHMARKS[task].is_trained
        protocol = {'channels': 8, 'streaming': streaming} if is_trained else {'settings': {'top_k': 7}}
        model = {
            'path': path,
            'tap': 'core',
            'random_weights': False,
            'precision': 'float32',
            'parameters': 9,
            'fingerprint': f'of {path}',
        }
        found = {
            'task': task, 'model': model | facts, 'protocol': protocol | (settings or {}), 'seed': seed,
            'data': {'evaluated': {'dataset': 'D', 'examples': 3, **(data or {})}}, 'metric': of.name, 'value': value,
            'higher_is_better': of.higher_is_better, 'scores': {of.name: value}, 'roots': {'evaluated': root},
            'seconds': 1, 'version': '0.1.0',
        }  # fmt: skip
        if is_trained:
            found['schedule'] = {'steps': 5, 'peak_lr': 3e-4}
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'results.json').write_text(json.dumps(found))
        return folder

    return write


@pytest.fixture
def demo(tmp_path):
    """The folder of a demo of RVM with its three backbones."""
    folder = tmp_path / 'demo'
    folder.mkdir()
    backbones = {
        name: {
            'motion': {'metric': 'top1', 'value': motion, 'higher_is_better': True, 'scores': {}},
            'camera': {'metric': 'share_of_motion', 'value': camera, 'higher_is_better': False, 'scores': {}},
        }
        for name, motion, camera in (('model', 0.6, 0.5), ('image encoder', 0.3, 1.0), ('random weights', 0.15, 1.0))
    }
    model = {
        'path': RVM,
        'tap': 'core',
        'random_weights': False,
        'precision': 'float32',
        'parameters': 9,
        'fingerprint': f'of {RVM}',
    }
    found = {'task': 'demo', 'model': model, 'seed': 0, 'protocol': {'clips': [4, 4, 4]}}
    models = {
        'model': model,
        'image encoder': model | {'tap': 'encoder', 'fingerprint': 'of the encoder'},
        'random weights': model | {'random_weights': True, 'fingerprint': 'drawn'},
    }
    found |= {'models': models, 'results': backbones, 'seconds': 1, 'version': '0.1.0'}
    (folder / 'results.json').write_text(json.dumps(found))
    return str(folder)


@pytest.fixture
def compare(capsys):
    """compare(...) -> exit code, lines of cells on standard output, text on standard error."""

    def run(*words):
        code = cli.run('compare', [str(word) for word in words])
        said = capsys.readouterr()
        return code, [[cell.strip() for cell in line.split('  ') if cell] for line in said.out.splitlines()], said.err

    return run


def test_a_published_table_comes_out_as_it_was_printed(probed, compare, tmp_path):
    tasks = 'ssv2', 'waymo', 'perception_test', 'scannet', 'nuscenes'
    folders = [
        probed(f'{model}_{task}', task, value, model, streaming=True)
        for model, values in PUBLISHED.items()
        for task, value in zip(tasks, values, strict=False)
    ]
    code, lines, error = compare(*folders, '--output', 'tables/streaming.md')
    assert code == 0 and error == ''
    assert lines[0] == ['model', 'SSv2', 'Waymo', 'Perception Test', 'ScanNet', 'nuScenes', 'normalized']
    units = ['top-1 (%) ↑', 'mIoU (%) ↑', 'AJ (%) ↑', 'AbsRel × 10 ↓', 'RPE (mm) ↓', 'average (%) ↑']
    assert lines[1] == units
    assert lines[2] == ['rvm (streaming)', '46.9', '72.7', '61.3', '1.29', '36.00', '77.7']
    assert [line[-1] for line in lines[2:7]] == [f'{values[-1]}' for values in PUBLISHED.values()]
    markdown = (tmp_path / 'tables' / 'streaming.md').read_text().splitlines()
    assert markdown[0].startswith('| model | SSv2 top-1 (%) ↑ | Waymo mIoU (%) ↑ |')
    assert markdown[6] == '| gmmix (streaming) | 66.9 | 85.0 | **69.4** | 0.89 | **28.09** | **99.4** |'
    assert [line.count('**') // 2 for line in markdown[2:]] == [0, 2, 0, 1, 3]


def test_seeds_of_a_model_become_mean_and_deviation(probed, compare):
    folders = [probed(f'seed_{seed}', 'ssv2', 0.60 + 0.01 * seed, seed=seed) for seed in (0, 1, 2)]
    lines = compare(*folders, probed('dino', 'ssv2', 0.305, DINO))[1]
    assert lines[2:] == [['rvm_l.npz', '61.0 ± 1.0', '100.0'], ['dinov2-large', '30.5', '50.0']]


def test_random_weights_of_several_seeds_are_one_row(probed, compare):
    folders = [
        probed(f'{seed}', 'davis', 0.1 + 0.2 * seed, seed=seed, random_weights=True, fingerprint=f'drawn {seed}')
        for seed in (0, 1)
    ]
    lines = compare(*folders, probed('model', 'davis', 0.6))[1]
    assert lines[2:] == [['rvm_l.npz random weights', '20.0 ± 14.1', '33.3'], ['rvm_l.npz', '60.0', '100.0']]


def test_what_a_model_lacks_is_said_in_place_of_the_average(probed, compare):
    folders = probed('a', 'ssv2', 0.6), probed('b', 'davis', 0.6), probed('c', 'davis', 0.5, DINO)
    code, lines, error = compare(*folders)
    assert code == 0 and lines[0] == ['model', 'SSv2', 'DAVIS'] and lines[3] == ['dinov2-large', '–', '50.0']
    assert error == 'rvm compare: no normalized average: dinov2-large lacks SSv2\n'


def test_a_score_that_is_not_known_is_neither_best_nor_averaged(probed, compare, tmp_path):
    folders = probed('a', 'jhmdb', float('nan')), probed('b', 'jhmdb', 48.4, DINO), probed('c', 'jhmdb', 40.0, 'other')
    _, lines, error = compare(*folders, '--output', 'table.md')
    assert lines[1:3] == [['PCK@0.1 (%) ↑'], ['rvm_l.npz', '–']] and 'rvm_l.npz lacks JHMDB' in error
    assert (tmp_path / 'table.md').read_text().count('**') == 2


def test_a_model_alone_is_not_the_best(probed, compare, tmp_path):
    _, lines, error = compare(probed('a', 'ssv2', 0.6), probed('b', 'davis', 0.5), '--output', 'table.md')
    assert lines[0] == ['model', 'SSv2', 'DAVIS'] and error == ''
    assert (tmp_path / 'table.md').read_text().splitlines()[2] == '| rvm_l.npz | 60.0 | 50.0 |'


def test_the_demo_gives_a_row_a_backbone(demo, probed, compare):
    lines = compare(demo)[1]
    assert lines[0] == ['model', 'motion', 'camera', 'normalized']
    assert lines[2:] == [
        ['rvm_l.npz', '60.0', '0.500', '100.0'],
        ['rvm_l.npz (encoder)', '30.0', '1.000', '50.0'],
        ['rvm_l.npz random weights', '15.0', '1.000', '37.5'],
    ]
    encoder = probed('encoder', 'davis', 0.4, tap='encoder', fingerprint='of the encoder')
    lines = compare(probed('core', 'davis', 0.6), encoder, demo)[1]  # the same models: no rows of their own
    assert lines[2:] == [
        ['rvm_l.npz', '60.0', '60.0', '0.500'],
        ['rvm_l.npz (encoder)', '40.0', '30.0', '1.000'],
        ['rvm_l.npz random weights', '–', '15.0', '1.000'],
    ]


def test_a_part_of_the_demo_is_compared_too(demo, compare, tmp_path):
    path = tmp_path / 'demo' / 'results.json'
    path.write_text(path.read_text().replace('"task": "demo"', '"task": "quick"'))
    assert compare(demo)[1][0] == ['model', 'motion', 'camera', 'normalized']


def test_each_readout_has_its_column(probed, compare, tmp_path):
    folders = [probed('a', 'ssv2', 0.6), probed('b', 'davis', 0.5)]
    path = tmp_path / 'a' / 'results.json'
    found = json.loads(path.read_text())
    measured = {'metric': 'top1', 'higher_is_better': True, 'scores': {}}
    protocol, schedule = found.pop('protocol'), found.pop('schedule')
    found['readouts'] = {
        'knn': measured | {'value': 0.2, 'protocol': {'k': 20}},
        'attentive': measured | {'value': 0.6, 'protocol': protocol, 'schedule': schedule},
    }
    path.write_text(json.dumps(found))
    lines = compare(*folders)[1]
    assert lines[0] == ['model', 'SSv2', 'SSv2, kNN', 'DAVIS'] and lines[2] == ['rvm_l.npz', '60.0', '20.0', '50.0']
    attentive_alone = probed('c', 'ssv2', 0.5, DINO)  # as every probe was before there were other readouts
    assert compare(folders[0], attentive_alone)[1][2:] == [['rvm_l.npz', '60.0', '20.0'], ['dinov2-large', '50.0', '–']]
    found['readouts']['knn']['protocol']['k'] = 10
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'results.json').write_text(json.dumps(found))
    assert 'ssv2 knn was probed with protocol.k 20 and 10, which do not compare' in compare('a', 'd')[2]


def test_another_precision_is_another_row(demo, probed, compare, tmp_path):
    path = tmp_path / 'demo' / 'results.json'
    path.write_text(path.read_text().replace('float32', 'bf16'))
    names = [line[0] for line in compare(demo, probed('davis', 'davis', 0.5))[1][2:]]
    assert names[:2] + names[-1:] == ['rvm_l.npz (bf16)', 'rvm_l.npz (encoder) (bf16)', 'rvm_l.npz']


def test_tasks_without_a_kind_of_readout_are_in_the_rows_of_both(probed, compare):
    folders = [probed('offline', 'ssv2', 0.6), probed('streaming', 'ssv2', 0.4, streaming=True)]
    folders += [probed('davis', 'davis', 0.5), probed('pose', 'nuscenes', 30.0, streaming=True)]
    lines = compare(*folders)[1]
    assert [line[:4] for line in lines[2:]] == [
        ['rvm_l.npz', '60.0', '30.00', '50.0'],
        ['rvm_l.npz (streaming)', '40.0', '30.00', '50.0'],
    ]


def test_models_of_one_name_are_told_apart(probed, compare):
    folders = [probed(path[0], 'davis', 0.5, path) for path in ('a/x/export', 'b/x/export', 'c/export', 'd/other/')]
    folders += [probed('e', 'davis', 0.5, 'd/other', fingerprint='another step')]
    names = [line[0] for line in compare(*folders)[1][2:]]
    assert names == ['a/x/export', 'b/x/export', 'c/export', 'other [of d/other/]', 'other [another step]']


def test_a_model_that_was_moved_is_the_same(probed, compare):
    folders = (
        probed('a', 'ssv2', 0.6, data={}, root='/here'),
        probed('b', 'davis', 0.5, 'moved', fingerprint=f'of {RVM}'),
    )
    assert compare(*folders)[1][2:] == [['rvm_l.npz', '60.0', '50.0']]


def test_where_a_dataset_lies_makes_no_difference(probed, compare):
    assert compare(probed('a', 'ssv2', 0.6, root='/here'), probed('b', 'ssv2', 0.5, DINO, root='/there'))[0] == 0


@pytest.mark.parametrize(
    ('other', 'expected'),
    [
        ({'settings': {'settings': {'top_k': 10}}}, 'davis was probed with protocol.settings.top_k 7 and 10, which do'),
        ({'data': {'stride': 2}}, 'davis was probed with data.evaluated.stride unknown and 2, which do not compare'),
        ({'data': {'examples': 2}}, 'davis was probed with data.evaluated.examples 3 and 2'),
        ({'path': RVM}, 'both are davis of one model with seed 0; leave one out'),
    ],
)
def test_probes_that_do_not_compare_are_refused(probed, compare, other, expected):
    folders = probed('first', 'davis', 0.6), probed('second', 'davis', 0.5, **{'path': DINO} | other)
    code, lines, error = compare(*folders, '--output', 'table.md')
    assert code == 2 and lines == [] and error.count('\n') == 1
    assert error.startswith(f'rvm compare: first and second: {expected}')


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        ({'settings.json': '{}'}, 'folder: its probe is not finished; run its `rvm probe` command again'),
        ({}, 'folder: does not hold results of a probe; name folders that `rvm probe` wrote'),
        ({'results.json': '{"question": "cores", "cells": {}}'}, 'folder: does not hold results of a probe; '),
        ({'results.json': '{"task": '}, 'folder/results.json: is not JSON ('),
        (None, 'folder: does not exist; '),
    ],
)
def test_a_folder_without_results_is_one_line(probed, compare, tmp_path, files, expected):
    good = probed('good', 'davis', 0.6)
    if files is not None:
        (tmp_path / 'folder').mkdir()
        for name, text in files.items():
            (tmp_path / 'folder' / name).write_text(text)
    code, _, error = compare(good, 'folder')
    assert code == 2 and error.count('\n') == 1 and error.startswith(f'rvm compare: {expected}')


def test_the_output_must_not_be_a_folder(probed, compare):
    assert compare(probed('a', 'davis', 0.6), '--output', 'a') == (
        2, [], 'rvm compare: --output a: is a folder; name a file in it, such as table.md\n'
    )  # fmt: skip


def test_metrics_of_the_demo_are_found_by_name():
    metrics = {metric for _, metric in demo_suite.read_outs(demo_suite.SUITES['demo'], 0).values()}
    assert {registry.find_metric(metric.name) for metric in metrics} == metrics


@pytest.mark.parametrize('name', [name for name, row in registry.BENCHMARKS.items() if row.is_trained])
def test_a_task_with_one_readout_has_no_other(name):
    task, refused = registry.BENCHMARKS[name].make_task(), False
    try:
        dataclasses.replace(task, streaming=not task.streaming)
    except UserError:
        refused = True
    assert refused == registry.BENCHMARKS[name].has_one_readout

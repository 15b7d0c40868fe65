"""The benchmarks against what RVM published (section 11.1 and Table 7), and how one is added."""

import dataclasses
import json
import math
import pathlib
import re

import jax
import pytest
from flax import nnx

from rvm_jax import cli
from rvm_jax.probing import registry, settings
from rvm_jax.probing.registry import BENCHMARKS, Benchmark, Metric

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'probing.md'


def settings_of_data(name):
    return settings.resolve(BENCHMARKS[name].datasets()['evaluated'], {}, 'data')


@pytest.mark.parametrize(
    ('name', 'frames', 'size', 'channels', 'heads'),
    [
        ('ssv2', 16, 224, 768, 12),
        ('kinetics700', 16, 224, 1024, 16),
        ('scannet', 16, 224, 1024, 16),
        ('perception_test', 16, 224, 1024, 8),
        ('waymo', 16, 256, 1024, 4),
    ],
)
def test_clips_and_readouts_are_as_published(name, frames, size, channels, heads):
    task, data = BENCHMARKS[name].make_task(), settings_of_data(name)
    assert (data['num_frames'], data['image_size']) == (frames, size)
    assert (task.channels, task.heads) == (channels, heads)


def test_the_table_of_the_docs_has_every_benchmark():
    rows = [line.split('|')[1] for line in DOCS.read_text().splitlines() if line.startswith('| `')]
    named = [name for row in rows for name in re.findall('`([a-z0-9_]+)`', row)]
    assert sorted(named) == sorted(BENCHMARKS)


def test_clips_of_actions_are_as_published():
    ssv2, kinetics = settings_of_data('ssv2'), settings_of_data('kinetics700')
    assert ssv2['stride'] == kinetics['stride'] == 2 and ssv2['colors']
    assert (ssv2['num_clips'], kinetics['num_clips']) == (1, 7)


@pytest.mark.parametrize(
    ('name', 'width', 'count'),
    [
        ('ssv2', 384, 6_047_406),
        ('ssv2', 1024, 7_041_966),
        ('kinetics700', 768, 11_752_636),
        ('kinetics700', 1280, 12_810_428),
        ('scannet', 1024, 18_116_736),
    ],
)
def test_readouts_have_the_published_number_of_parameters(name, width, count):
    readout = nnx.eval_shape(lambda: BENCHMARKS[name].make_task().readout(width, 16, nnx.Rngs(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(readout, nnx.Param))) == count


@pytest.mark.parametrize(('videos', 'given', 'steps'), [(4, {}, 100), (60, {}, 180), (60, {'steps': '50'}, 50)])
def test_steps_follow_the_number_of_own_videos(tmp_path, videos, given, steps):
    for label in ('a', 'b'):
        (tmp_path / label).mkdir()
        for number in range(videos // 2):
            (tmp_path / label / f'{number}.mp4').write_text(f'{label} {number}')
    opened = registry.open_benchmark(
        'folder', tmp_path, given=[(f'schedule.{name}', text) for name, text in given.items()]
    )
    assert (opened.schedule.steps, opened.schedule.batch_size, opened.task.num_classes) == (steps, 8, 2)
    assert list(opened.readouts) == ['attentive', 'linear', 'knn']


@pytest.mark.parametrize('name', registry.POOLED)
def test_other_readouts_take_their_own_defaults(name):
    readout = registry.open_pooled(name)
    texts = {key: str(value) for key, value in settings.resolve(readout, {}, name).items()}
    assert dataclasses.replace(readout, **settings.resolve(readout, texts, name)) == readout


def test_public_benchmarks_have_the_published_readout_unless_told_otherwise():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.readouts == ('attentive',) or name == 'folder'
    assert BENCHMARKS['imagenet'].all_readouts == ('attentive', 'linear', 'knn')
    assert BENCHMARKS['waymo'].all_readouts == ('attentive',) and BENCHMARKS['davis'].all_readouts == ()


def test_a_benchmark_is_one_file_and_one_row(export, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)  # brightness.py
    error = Metric('error', 'brightness', 'levels', factor=255, decimals=1, higher_is_better=False)
    schedule = {'steps': 2, 'batch_size': 8, 'warmup': 0}
    row = Benchmark('Grays', error, 'brightness:Grays', 'brightness:Brightness', schedule=schedule)
    monkeypatch.setitem(BENCHMARKS, 'grays', row)
    output = str(tmp_path / 'probe')
    line = ['--model', export, '--task', 'grays', '--data', '.', '--output', output, '--set', 'task.scale=0.5']
    assert cli.run('probe', line) == 0
    found = json.loads((tmp_path / 'probe' / 'results.json').read_text())
    assert found['metric'] == 'error' and found['value'] == found['scores']['error'] and not found['higher_is_better']
    assert found['protocol'] == {'scale': 0.5} and found['schedule']['steps'] == 2
    assert found['data']['evaluated'] == {'dataset': 'Grays', 'split': 'val', 'examples': 8, 'num_clips': 8}
    capsys.readouterr()
    assert cli.run('compare', [output]) == 0
    shown = capsys.readouterr().out
    assert 'Grays' in shown and 'brightness (levels) ↓' in shown and f'{255 * found["value"]:.1f}' in shown

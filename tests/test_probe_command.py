"""`rvm probe` as a user types it, on small stand-ins of the public layouts."""

import contextlib
import dataclasses
import io
import json
import shutil
import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from rvm_jax import cli
from rvm_jax.errors import Stopped
from rvm_jax.probing import pooled_features, train_readout
from rvm_jax.probing.datasets.davis import Davis
from rvm_jax.probing.demo import demo_readouts, demo_suite
from rvm_jax.synthetic.render import render
from rvm_jax.synthetic.scenes import random_scene
from rvm_jax.synthetic.synthetic_videos import write_video

DAVIS_VIDEOS = ('bear', 'boat')


# Frames of the size of the stand-ins, where the protocols say 480 x 880 and 224 x 224.
SMALL_DAVIS = ('--set', 'task.settings.size=(48,64)', '--set', 'task.settings.radius=6')
SMALL_KINETICS = tuple(
    word
    for setting in (
        'data.num_frames=4',
        'data.image_size=32',
        'schedule.steps=2',
        'schedule.batch_size=2',
        'schedule.warmup=0',
    )
    for word in ('--set', setting)
)


def rvm(*words):
    return cli.run(words[0], [str(word) for word in words[1:]])


@pytest.fixture(scope='module')
def davis(tmp_path_factory):
    """Two videos of four frames with one object that moves to the right."""
    root = tmp_path_factory.mktemp('DAVIS')
    for folder in (
        'ImageSets/2017',
        *(f'{kind}/480p/{name}' for kind in ('JPEGImages', 'Annotations') for name in DAVIS_VIDEOS),
    ):
        (root / folder).mkdir(parents=True)
    (root / 'ImageSets/2017/val.txt').write_text('\n'.join(DAVIS_VIDEOS) + '\n')
    for name in DAVIS_VIDEOS:
        for t in range(4):
            frame, mask = np.full((48, 64, 3), 60, np.uint8), np.zeros((48, 64), np.uint8)
            frame[16:32, 8 + 8 * t : 24 + 8 * t] = (30, 220, 30)
            mask[16:32, 8 + 8 * t : 24 + 8 * t] = 1
            cv2.imwrite(str(root / f'JPEGImages/480p/{name}/{t:05d}.jpg'), frame)
            palette = Image.fromarray(mask, 'P')
            palette.putpalette([0, 0, 0, 200, 0, 0])
            palette.save(root / f'Annotations/480p/{name}/{t:05d}.png')
    return root


@pytest.fixture(scope='module')
def kinetics(tmp_path_factory):
    """Two classes, light that grows and light that fades, six videos of each."""
    root = tmp_path_factory.mktemp('kinetics')
    for split in ('train', 'val'):
        rows = ['label,youtube_id,time_start,time_end,split']
        (root / split).mkdir()
        for number in range(6):
            label = ('fading', 'growing')[number % 2]
            name = f'{split}{number:06d}'
            grays = (60 + 4 * np.arange(34) + number)[:: 1 if label == 'growing' else -1]
            frames = np.broadcast_to(grays[:, None, None, None], (34, 32, 32, 3)).astype(np.uint8)
            write_video(root / split / f'{name}_000000_000010.mp4', frames)
            rows.append(f'{label},{name},0,10,{split}')
        (root / f'{split}.csv').write_text('\n'.join(rows) + '\n')
    return root


@pytest.fixture(scope='module')
def own_videos(tmp_path_factory):
    """Rendered scenes of two classes: all red, six videos, and all blue, five."""
    root = tmp_path_factory.mktemp('own')
    for channel, (label, count) in enumerate({'red': 6, 'blue': 5}.items()):
        (root / label).mkdir()
        for number in range(count):
            frames = render(random_scene(np.random.default_rng((channel, number)), 8, 32, 32))
            frames[..., [1, 2 - 2 * channel]] = 0
            write_video(root / label / f'{number}.mp4', frames)
    return root


@pytest.fixture(scope='module')
def other_kinetics(kinetics, tmp_path_factory):
    """The same videos with another class."""
    root = tmp_path_factory.mktemp('others') / 'kinetics'
    shutil.copytree(kinetics, root)
    for table in root.glob('*.csv'):
        table.write_text(table.read_text().replace('fading', 'vanishing'))
    return root


def test_labels_are_propagated_without_training(export, davis, tmp_path, capsys):
    output = tmp_path / 'probe'
    line = ('probe', '--model', export, '--task', 'davis', '--data', davis, '--output', output, *SMALL_DAVIS)
    assert rvm(*line) == 0
    found = json.loads((output / 'results.json').read_text())
    assert found['metric'] == 'J&F' and 0 <= found['value'] <= 1 and found['value'] == found['scores']['J&F']
    assert found['model']['path'] == export and len(found['model']['fingerprint']) == 16 and found['seed'] == 0
    assert found['protocol']['settings'] | {'top_k': 7, 'radius': 6.0} == found['protocol']['settings']
    assert found['data'] == {'evaluated': {'dataset': 'Davis', 'split': 'val', 'examples': 2}}
    assert found['roots'] == {'evaluated': str(davis)}
    assert '| export | ' in (output / 'table.md').read_text()
    assert cv2.imread(str(output / 'prediction_0.png')).shape[1] > 400
    assert 'davis: J&F ' in capsys.readouterr().out
    written = (output / 'results.json').stat().st_mtime_ns
    assert rvm(*line) == 0 and (output / 'results.json').stat().st_mtime_ns == written  # finished: only shown again


def test_a_readout_is_trained_on_frozen_features(export, kinetics, tmp_path, capsys):
    output = tmp_path / 'probe'
    line = ('probe', '--model', export, '--task', 'kinetics400', '--data', kinetics, '--output', output)
    line = (*line, *SMALL_KINETICS)
    assert rvm(*line) == 0
    found = json.loads((output / 'results.json').read_text())
    assert found['metric'] == 'top1' and found['schedule']['steps'] == 2 and found['protocol']['channels'] == 1024
    assert found['data']['evaluated']['examples'] == 6 * 7 and found['data']['trained']['examples'] == 6
    for data in found['data'].values():
        assert (data['num_frames'], data['stride'], data['image_size']) == (4, 2, 32)
    assert found['left_out'] == {'training': [], 'evaluation': []}
    assert (output / 'prediction_0.png').exists() and not found['model']['random_weights']
    capsys.readouterr()
    assert rvm(*line, '--set', 'schedule.peak_lr=1e-3') == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith('the data has 2 classes, fewer than the 400 of the task')
    assert 'holds another probe: its schedule.peak_lr is 0.0003, not 0.001' in error and '--output' in error


SMALL_FOLDER = ('--set', 'data.num_frames=2', '--set', 'data.num_clips=2')
SHORT = ('--set', 'schedule.steps=30', '--set', 'schedule.warmup=5')


@pytest.fixture(scope='module')
def own_probe(export, own_videos, tmp_path_factory):
    """The folder of a probe of own videos, whose lines are in said.txt."""
    output = tmp_path_factory.mktemp('probes') / 'own'
    line = (
        'probe',
        '--model',
        export,
        '--task',
        'folder',
        '--data',
        own_videos,
        '--output',
        output,
        *SMALL_FOLDER,
        *SHORT,
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert rvm(*line) == 0
    (output / 'said.txt').write_text(said.getvalue())
    return output


def test_own_labels_are_read_in_three_ways(own_probe):
    output = own_probe
    found = json.loads((output / 'results.json').read_text())
    assert list(found['readouts']) == ['attentive', 'linear', 'knn']
    assert [found['readouts'][name]['value'] for name in ('attentive', 'linear', 'knn')] == [1, 1, 1]
    assert found['readouts']['knn']['protocol'] == {'k': 20, 'temperature': 0.07}
    assert found['readouts']['attentive']['protocol']['num_classes'] == 2
    assert found['readouts']['attentive']['schedule']['steps'] == 30
    assert found['value'] == 1 and found['scores'] == {'top1': 1, 'chance': 0.5} and 'protocol' not in found
    data = found['data']['evaluated']
    assert (data['videos'], data['classes'], data['examples'], data['image_size']) == (2, 2, 4, None)
    assert found['clip_format'] == {'image_size': 32, 'most_fps': 10.0}
    assert (output / 'split.csv').read_text().count(',val\n') == 2
    row = (output / 'table.md').read_text()
    assert row.startswith('| model | folder top1 | folder linear top1 | folder knn top1 |')
    assert (output / 'prediction_3.png').exists()
    said = (output / 'said.txt').read_text().splitlines()
    assert said[0] == f'2 classes, 9 videos for training, 2 held out, listed in {output}/split.csv'
    assert [[cell.strip() for cell in text.split('  ') if cell] for text in said[1:6]] == [
        ['own videos', 'top-1 (%)'], ['attentive', '100.0'], ['linear', '100.0'], ['kNN', '100.0'],
        ['always the commonest class', '50.0'],
    ]  # fmt: skip


def test_probes_of_own_videos_are_compared(export, own_videos, own_probe, tmp_path, capsys):
    random = tmp_path / 'random'
    line = ('probe', '--model', export, '--task', 'folder', '--data', own_videos, '--output', random, *SMALL_FOLDER)
    assert rvm(*line, '--readout', 'knn', '--random-weights') == 0
    said = capsys.readouterr().out.splitlines()
    assert [text.split('  ')[0] for text in said[1:4]] == ['own videos', 'kNN', 'always the commonest class']
    found = json.loads((random / 'results.json').read_text())
    assert list(found['readouts']) == ['knn'] and found['model']['random_weights']
    assert not (random / 'curve.png').exists() and (random / 'prediction_0.png').exists()
    assert rvm('compare', own_probe, random) == 0
    rows = [
        [cell.strip() for cell in text.split('  ') if cell] for text in capsys.readouterr().out.splitlines()
    ]  # fmt: skip
    assert rows[0] == ['model', 'own videos', 'own videos, linear', 'own videos, kNN']
    assert rows[2] == ['export', '100.0', '100.0', '100.0'] and rows[3][:3] == ['export random weights', '–', '–']


def test_readouts_that_are_finished_are_kept(export, own_videos, own_probe, tmp_path, monkeypatch):
    line = ('probe', '--model', export, '--task', 'folder', '--data', own_videos, '--output', tmp_path / 'probe')
    line = (*line, *SMALL_FOLDER, '--set', 'schedule.steps=1', '--set', 'schedule.warmup=0')

    def stopped(*_, **__):
        raise Stopped('stopped')

    with monkeypatch.context() as patched:
        patched.setattr(train_readout, 'train_readout', stopped)
        assert rvm(*line) == 75
    monkeypatch.setattr(pooled_features, 'read', stopped)
    assert rvm(*line) == 0
    before, now = (
        json.loads((folder / 'results.json').read_text())['readouts'] for folder in (own_probe, tmp_path / 'probe')
    )
    assert [now[name] for name in ('linear', 'knn')] == [before[name] for name in ('linear', 'knn')]


def test_classes_of_public_data_are_read_linearly_too(export, kinetics, tmp_path):
    output = tmp_path / 'probe'
    line = ('probe', '--model', export, '--task', 'kinetics400', '--data', kinetics, '--output', output)
    size = ('--set', 'data.num_frames=4', '--set', 'data.image_size=32', '--set', 'linear.penalties=(1.0,0.1)')
    assert rvm(*line, *size, '--readout', 'linear') == 0
    found = json.loads((output / 'results.json').read_text())
    assert found['readouts']['linear']['protocol'] == {'penalties': [1.0, 0.1], 'held_back': 0.2}
    assert 'schedule' not in found and found['data']['evaluated']['examples'] == 6 * 7


def test_propagation_resumes_after_the_last_finished_video(export, davis, tmp_path, monkeypatch, capsys):
    output, loaded = tmp_path / 'probe', []
    line = ('probe', '--model', export, '--task', 'davis', '--data', davis, '--output', output, *SMALL_DAVIS)
    load = Davis.video

    def video(source, index):
        loaded.append(index)
        signal.raise_signal(signal.SIGTERM)
        return load(source, index)

    monkeypatch.setattr(Davis, 'video', video)
    assert rvm(*line) == 75
    assert 'SIGTERM: 1 of 2 videos are done; the same command line resumes from there' in capsys.readouterr().err
    monkeypatch.setattr(Davis, 'video', lambda source, index: loaded.append(index) or load(source, index))
    assert rvm(*line) == 0 and loaded == [0, 1]


@pytest.fixture
def few_clips(monkeypatch):
    """Both suites with few clips of one shape, so that one program encodes all."""
    for name, suite in demo_suite.SUITES.items():
        few = dataclasses.replace(suite, train=16, held_out=16, propagated=min(suite.propagated, 2))
        monkeypatch.setitem(demo_suite.SUITES, name, few)
    for name in ('NOISE_TRAIN', 'NOISE_HELD_OUT'):
        monkeypatch.setattr(demo_suite, name, 16)
    monkeypatch.setattr(demo_suite, 'PROPAGATED_FRAMES', 5)
    monkeypatch.setattr(demo_suite, 'NOISE_FRAMES', demo_suite.NUM_FRAMES)
    monkeypatch.setattr(demo_readouts, 'SCHEDULE', train_readout.Schedule(steps=2, batch_size=11, warmup=0))


@pytest.mark.long
def test_the_quick_suite_is_a_part_of_the_demo(export, tmp_path, capsys, few_clips):
    assert rvm('probe', '--model', export, '--task', 'quick', '--output', tmp_path) == 0
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['task'] == 'quick' and list(found['results']) == ['model']
    assert list(found['results']['model']) == ['motion', 'camera', 'points', 'boxes', 'depth', 'noise square']
    assert rvm('probe', '--model', export, '--task', 'demo', '--output', tmp_path) == 2
    assert 'holds another probe' in capsys.readouterr().err


@pytest.mark.long
def test_the_demo_runs_every_task_on_every_backbone(export, tmp_path, capsys, few_clips):
    output = tmp_path / 'probe'
    line = ('probe', '--model', export, '--task', 'demo', '--output', output)
    assert rvm(*line) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ['task', 'model', 'image', 'encoder', 'random', 'weights']
    found = json.loads((output / 'results.json').read_text())['results']
    tasks = ['motion', 'motion attentive', 'camera', 'points', 'boxes', 'depth', 'noise square', 'masks', 'keypoints']
    assert list(found) == ['model', 'image encoder', 'random weights'] and all(
        list(of) == tasks for of in found.values()
    )
    assert [text.split(',')[0] for text in shown[1:10]] == tasks and shown[10].startswith('normalized average')
    pictures = {path.name for path in (output / 'pictures').iterdir()}
    assert {f'{task.replace(" ", "_")}_0.png' for task in tasks if task != 'camera'} <= pictures
    (output / 'results.json').unlink()
    assert rvm(*line) == 0  # the backbones' parts are kept
    assert capsys.readouterr().out.splitlines() == shown


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (('--task', 'ssv3'), '--task ssv3: is not a task; take demo, quick, folder, ssv2, '),
        (('--task', 'davis', '--data', 'DAVIS', '--readout', 'knn'), '--readout knn: is not a readout of davis; leave'),
        (('--task', 'waymo', '--data', '.', '--readout', 'knn'), 'is not a readout of waymo; take attentive'),
        (('--task', 'demo', '--readout', 'knn'), '--readout with --task demo: the suite has settings'),
        (('--task', 'folder', '--data', 'OWN', '--readout', 'knn', '--set', 'linear.k=3'), 'settings begin data, knn'),
        (('--task', 'folder', '--data', 'OWN', '--set', 'knn.k=0'), 'it takes an integer of at least 1'),
        (('--task', 'folder', '--data', 'nowhere'), 'nowhere: does not exist; give a folder with a subfolder'),
        (('--task', 'davis'), '--task davis: needs its dataset; give its folder with --data'),
        (('--task', 'davis', '--data', 'nowhere'), 'DAVIS'),
        (
            ('--task', 'waymo', '--data', '.', '--set', 'task.tracker_depth=2'),
            'does not have this setting',
        ),
        (
            ('--task', 'waymo', '--data', '.', '--set', 'schedule.steps=5'),
            'must be shorter than the schedule',
        ),
        (
            ('--task', 'davis', '--data', 'DAVIS', '--set', 'schedule.steps=5'),
            'settings begin task, data',
        ),
        (('--task', 'davis', '--data', 'DAVIS', '--train-data', '.'), 'does not train a readout'),
        (('--task', 'davis', '--data', 'DAVIS', '--set', 'task.size=5'), 'is not a setting; take one of'),
        (('--task', 'ssv2', '--data', '.', '--set', 'schedule.step=9'), 'is not a setting; take one of steps'),
        (
            ('--task', 'scannet', '--data', '.', '--set', 'data.image_size=64'),
            'frames of the data have 64 pixels a side',
        ),
        (('--task', 'kinetics400', '--data', 'KINETICS', '--set', 'task.num_classes=1'), '2 classes: are in this data'),
        (
            ('--task', 'kinetics400', '--data', 'KINETICS', '--train-data', 'OTHERS'),
            '--train-data: does not have the classes',
        ),
        (('--task', 'demo', '--set', 'task.streaming=true'), '--set with --task demo: the suite has settings'),
        (('--task', 'demo', '--tap', 'encoder'), '--tap with --task demo: the suite has settings of its own'),
        (('--task', 'davis', '--data', 'DAVIS', '--tap', 'encoder:99'), 'is not a depth of this model'),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    export, davis, kinetics, other_kinetics, own_videos, tmp_path, capsys, words, expected
):
    output = tmp_path / 'probe'
    places = {'DAVIS': davis, 'KINETICS': kinetics, 'OTHERS': other_kinetics, 'OWN': own_videos}
    words = [places.get(word, word) for word in words]
    assert rvm('probe', '--model', export, '--output', output, *words) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and expected in error
    assert not output.exists()


def test_a_folder_with_other_files_is_left_alone(export, davis, tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('mine')
    assert rvm('probe', '--model', export, '--task', 'davis', '--data', davis, '--output', tmp_path) == 2
    assert 'holds other files, but not a probe' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']

"""What each check says of machines that are not at hand: numbers in, a color and a fix out."""

import math

import pytest

from rvm_jax.checkup import machine, steps
from rvm_jax.checkup.decoding import judge_decoding
from rvm_jax.checkup.finding import Finding, attempt, worst
from rvm_jax.errors import UserError

GIB = 2**30


@pytest.mark.parametrize(
    ('free', 'needed', 'color'), [(64e6, 65e6, 'red'), (70e6, 65e6, 'yellow'), (1e9, 65e6, 'green'), (0, 0, 'green')]
)
def test_shared_memory_that_is_too_small_is_red(free, needed, color):
    finding = machine.judge_shared_memory(free, needed)
    assert finding.color == color
    assert ('--shm-size' in finding.fix) == (color != 'green')


@pytest.mark.parametrize(
    ('platform', 'local', 'gpus', 'tpus', 'forced', 'color', 'fix'),
    [
        ('cpu', 1, 8, 0, '', 'red', "pip install 'rvm_jax[cuda13]'"),
        ('cpu', 1, 0, 4, '', 'red', "pip install 'rvm_jax[tpu]'"),
        ('cpu', 1, 8, 0, 'cpu', 'yellow', 'JAX_PLATFORMS'),
        ('cpu', 1, 0, 0, '', 'yellow', 'configs/tiny.py'),
        ('gpu', 4, 8, 0, '', 'yellow', 'CUDA_VISIBLE_DEVICES'),
        ('gpu', 8, 8, 0, '', 'green', ''),
        ('tpu', 4, 0, 4, '', 'green', ''),
    ],
)
def test_devices_that_jax_does_not_see_are_red(platform, local, gpus, tpus, forced, color, fix):
    finding = machine.judge_devices(platform, 'some kind', local, local, [60e9] * local, gpus, tpus, forced)
    assert finding.color == color
    assert fix in finding.fix


def test_one_process_a_gpu_is_as_it_should_be():
    assert machine.judge_devices('gpu', 'some kind', 16, 1, [60e9], 8, 0, '').color == 'green'


@pytest.mark.parametrize(
    ('changes', 'color', 'fix'),
    [
        ({}, 'green', ''),
        ({'jax-cuda13-plugin': '0.10.2', 'jax-cuda13-pjrt': '0.10.2'}, 'green', ''),
        ({'jax-cuda13-plugin': '0.10.1', 'jax-cuda13-pjrt': '0.10.2'}, 'red', "pip install --upgrade 'jax[cuda13]'"),
        ({'jax-cuda12-plugin': '0.10.2', 'jax-cuda13-plugin': '0.10.2'}, 'red', 'new environment'),
        ({'jaxlib': '0.9.0'}, 'yellow', 'pip install --upgrade jax jaxlib'),
    ],
)
def test_versions_that_do_not_match_are_named(changes, color, fix):
    finding = machine.judge_packages({'jax': '0.10.2', 'jaxlib': '0.10.2'} | changes)
    assert finding.color == color
    assert fix in finding.fix


@pytest.mark.parametrize(
    ('versions', 'color'),
    [
        ({'cudnn': '9.10.2', 'cuda': '13.0', 'cuda of the driver': '13.1'}, 'green'),
        ({'cudnn': '9.10.2', 'cuda': '12.9', 'cuda of the driver': '13.1'}, 'green'),
        ({'cudnn': '9.10.2', 'cuda': '13.0', 'cuda of the driver': '12.8'}, 'red'),
        ({'cuda': '13.0', 'cuda of the driver': '13.0'}, 'red'),
    ],
)
def test_a_driver_that_is_too_old_and_a_missing_cudnn_are_red(versions, color):
    assert machine.judge_driver('gpu', '570.1', versions).color == color


@pytest.mark.parametrize(('free', 'color'), [(5 * GIB, 'red'), (10 * GIB, 'yellow'), (20 * GIB, 'green')])
def test_a_disk_needs_room_for_the_checkpoints_that_are_kept(free, color):
    assert machine.judge_disk('/runs', free, 1e9, 1e9, checkpoint_bytes=3 * GIB, keep=3).color == color


def test_a_disk_that_takes_minutes_for_a_checkpoint_is_yellow():
    assert machine.judge_disk('/runs', 1e12, 1e6, 1e9, checkpoint_bytes=3 * GIB, keep=3).color == 'yellow'
    assert machine.judge_disk('gs://bucket/runs', math.inf, 1e9, 1e9, 3 * GIB, 3).values['free'] is None


def test_measuring_a_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, 'WRITTEN', 2**20)
    finding = machine.check_disk(str(tmp_path / 'runs' / 'new'), 10, 3)
    assert finding.color == 'green'
    assert finding.values['place'] == str(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('pace', 'cores', 'failures', 'color', 'fix'),
    [
        (95, 16, {}, 'yellow', '--config.data.num_workers=10'),
        (75, 16, {}, 'green', ''),
        (400, 16, {}, 'yellow', 'rvm prepare'),
        (None, 16, {}, 'green', ''),
        (75, 16, {'a.mp4': 'is empty'}, 'yellow', 're-encode'),
    ],
)
def test_workers_that_cannot_feed_the_devices_are_yellow(pace, cores, failures, color, fix):
    finding = judge_decoding('videos', 10.0, 64, failures, pace, num_workers=8, cores=cores)
    assert finding.color == color
    assert fix in finding.fix


def test_a_slow_network_is_yellow_where_the_data_sheet_is_known():
    kind = 'NVIDIA H100 80GB HBM3'
    assert steps.judge_network(kind, 8, 8, 2**28, 300e9).color == 'green'
    assert steps.judge_network(kind, 8, 8, 2**28, 30e9).color == 'yellow'
    assert steps.judge_network(kind, 16, 16, 2**28, 30e9).color == 'green'  # between hosts
    assert steps.judge_network('cpu', 8, 8, 2**28, 1e6).color == 'green'


def test_few_open_files_are_red_and_no_limit_is_green():
    assert [machine.judge_open_files(limit).color for limit in (256, 1024, -1)] == ['red', 'green', 'green']


def test_a_check_that_fails_is_red_and_the_others_still_run():
    def fails(error):
        raise error

    broken = attempt('driver', lambda: fails(RuntimeError('CUDA_ERROR_UNKNOWN\nmore')))
    assert (broken.color, broken.text) == ('red', 'RuntimeError: CUDA_ERROR_UNKNOWN')
    mistake = attempt('decoding', lambda: fails(UserError('/videos', 'is not there', 'give a folder')))
    assert (mistake.color, mistake.text, mistake.fix) == ('red', '/videos: is not there', 'give a folder')


def test_the_worst_of_all_processes_is_shown():
    colors = ['green', 'yellow', 'red', 'red']
    assert worst([Finding('disk', color, '') for color in colors]) == 2

"""Training, features and batches called from Python, as docs/python.md shows them."""

import importlib
import json
import pathlib
import re
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import rvm_jax
from rvm_jax import api, demo, pretrained
from rvm_jax.errors import ConfigErrors, UserError
from rvm_jax.synthetic.synthetic_videos import write_videos
from rvm_jax.version import version

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'python.md'
EXPORT = pathlib.Path(__file__).parent / 'goldens' / 'formats' / 'export'


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('python')
    for name in ('train', 'held_out'):
        write_videos(folder / 'videos' / name, 6, seed=0, height=64, width=64, fps=25)
    return folder / 'videos'


def small(videos, batch_size=8, **changes):
    data = {'path': videos / 'train', 'eval_path': videos / 'held_out', 'num_workers': 0}
    return rvm_jax.load_config('tiny', steps=2, batch_size=batch_size, data=data, log={'eval_clips': 8}, **changes)


@pytest.mark.long
def test_the_page_is_a_program_that_works(videos):
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    program = '\n'.join(block for block in blocks if 'import torch' not in block)
    assert 'steps=200, batch_size=16' in program
    script = videos.parent / 'page.py'
    script.write_text(program.replace('steps=200, batch_size=16', "steps=2, batch_size=8, log={'eval_clips': 8}"))
    done = subprocess.run([sys.executable, script], cwd=videos.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'frames, 10 per second, 6 x 6 patches' in done.stdout
    assert '(8, 4, 48, 48, 3) source, (8, 2, 48, 48, 3) target, mean squared error 0.' in done.stdout


def test_a_script_without_a_main_guard_is_told_where(videos):
    script = videos.parent / 'script.py'
    text = f"""
        import rvm_jax

        config = rvm_jax.load_config('tiny', steps=1, data={{'path': {str(videos / 'train')!r}, 'num_workers': 1}})
        rvm_jax.train(config, {str(videos.parent / 'unguarded')!r})
    """
    script.write_text(textwrap.dedent(text))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    said = 'UserError: script.py, line 5: would run once more in each process that decodes videos; put it under if'
    assert said in done.stderr
    assert not (videos.parent / 'unguarded').exists()


def test_training_in_a_thread_of_a_program(videos, tmp_path):
    failed = []

    def work():
        try:
            rvm_jax.train(small(videos), tmp_path / 'run')
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    model = rvm_jax.from_pretrained(tmp_path / 'run')
    assert (model.architecture.fps, model.architecture.max_gap) == (10.0, 7)
    found = pretrained.read_run(tmp_path / 'run')['config']
    assert found['steps'] == 2 and found['data']['path'] == str(videos / 'train')


@pytest.mark.long
def test_the_average_of_weights_is_what_is_evaluated_and_opened(videos, tmp_path):
    config = small(videos, 16, ema=0.5, accumulate=2)
    rvm_jax.train(config, tmp_path / 'run')
    evaluated = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])['eval_loss']
    model = rvm_jax.from_pretrained(tmp_path / 'run')
    assert demo.evaluate(model, config)[0]['loss'] == pytest.approx(evaluated, rel=1e-2)  # bf16 in the run

    continued = small(videos, 16, ema=0.5, optim={'allow_change': True})  # in one part now, and for one more step
    continued.steps = 3
    rvm_jax.train(continued, tmp_path / 'run')
    started = small(videos, init_from=str(tmp_path / 'run'), ema=0.9)
    started.steps = 1
    rvm_jax.train(started, tmp_path / 'from_it')
    continued.ema, continued.steps = 0.0, 4
    with pytest.raises(UserError, match=r'ema was 0.5, now 0.0; set it back, or start a new run'):
        rvm_jax.train(continued, tmp_path / 'run')


def test_batches_are_those_of_training_at_each_step(videos):
    first, second = (rvm_jax.batches(small(videos), start_step=step) for step in (0, 1))
    next(first)
    again, expected = next(first), next(second)
    assert {name: array.shape for name, array in again.items()} == {
        'source': (8, 4, 48, 48, 3), 'target': (8, 2, 48, 48, 3), 'deltas': (8, 2),
    }  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_array_equal(again[name], array)
    (held_out,) = rvm_jax.batches(small(videos), held_out=True)
    assert held_out['source'].dtype == np.uint8


def test_features_are_those_of_encode(videos):
    model = rvm_jax.from_pretrained(EXPORT)
    found = rvm_jax.features(model, videos / 'held_out' / 'clip_00000.mp4', fps=5, size=32)
    assert found.grid == (4, 4) and found.fps == 5
    assert found.features.shape[1:] == (17, 32) and found.features.dtype == np.float32
    with pytest.raises(UserError, match='--fps 0: is not a number above 0'):
        rvm_jax.features(model, videos / 'held_out' / 'clip_00000.mp4', fps=0)


def test_a_config_has_what_was_given_and_all_mistakes_are_named():
    config = rvm_jax.load_config('rvm_s', batch_size=64, optim={'warmup': 0.1}, data={'crop_area': (0.5, 1.0)})
    assert (config.batch_size, config.optim.warmup, config.data.crop_area) == (64, 0.1, (0.5, 1.0))
    with pytest.raises(ConfigErrors) as caught:
        rvm_jax.load_config('rvm_s', learning_rate=1, data={'fps': -1})
    assert 'did you mean optim.peak_lr?' in str(caught.value) and 'config.data.fps=-1.0' in str(caught.value)


def test_a_config_that_was_changed_is_checked_again(videos, tmp_path):
    config = small(videos)
    config.data.fps, config.data.path = -1.0, 'nowhere'
    with pytest.raises(ConfigErrors) as caught:
        rvm_jax.train(config, tmp_path / 'run')
    assert 'config.data.fps=-1.0' in str(caught.value) and 'nowhere' in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_calls_keep_their_names_beside_the_commands():
    for name in ('train', 'features'):
        module = importlib.import_module(f'rvm_jax.{name}')
        assert module.__name__ == f'rvm_jax.{name}' and callable(module.run)
        assert getattr(rvm_jax, name) is getattr(api, name)
    assert rvm_jax.__version__ == version()


def test_features_go_to_other_libraries_without_a_copy():
    model = rvm_jax.from_pretrained(EXPORT)
    features, _ = model.encode(np.zeros((1, 1, 16, 16, 3), np.uint8))
    shared = np.from_dlpack(features)
    assert shared.ctypes.data == features.unsafe_buffer_pointer()

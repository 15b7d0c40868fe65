"""Does a core learn on a frozen encoder? Minutes for each, so marked slow; figures are in docs/benchmarks.md."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rvm_jax.synthetic import demo_videos

pytestmark = pytest.mark.slow


def rvm(*words):
    """Run the real command, on one device, optimized as it is for users."""
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    subprocess.run([sys.executable, '-m', f'rvm_jax.{words[0]}', *map(str, words[1:])], env=env, check=True)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """Flags that name the videos of `rvm demo`."""
    folder = tmp_path_factory.mktemp('videos')
    demo_videos.render(str(folder), seed=0, fps=10.0)
    return f'--config.data.path={folder}/train', f'--config.data.eval_path={folder}/held_out'


@pytest.fixture(scope='module')
def encoder(videos, tmp_path_factory):
    """A small image encoder, trained on those frames for a few minutes."""
    folder = tmp_path_factory.mktemp('encoder')
    rvm('train', '--config', 'configs/tiny.py', '--workdir', folder / 'run', *videos, '--config.steps=400')
    rvm('export', '--model', folder / 'run', '--output', folder / 'export')
    return folder / 'export'


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pathlib.Path(folder).iterdir()}


@pytest.mark.parametrize('core', ['rvmrnn', 'mamba', 'mambamix', 'gmmix'])
def test_a_core_on_a_frozen_encoder_beats_copying_the_last_frame(core, videos, encoder, tmp_path):
    before = digest(encoder)
    rvm(
        'train', '--config', 'configs/frozen_tiny.py', '--workdir', tmp_path, *videos, f'--config.model.core={core}',
        f'--config.model.encoder_path={encoder}', '--config.steps=1500',
    )  # fmt: skip
    logged = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    losses = [entry for entry in logged if 'eval_loss' in entry][-1]
    print(core, {name: losses[name] for name in ('eval_loss', 'eval_copy_last', 'eval_mean_color')})
    assert losses['eval_loss'] < 0.9 * min(losses['eval_copy_last'], losses['eval_mean_color'])
    assert digest(encoder) == before

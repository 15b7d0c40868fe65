"""The code of docs/plugins.md, taken from the page and run by the real commands: training, probing and the way back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[2] / 'docs' / 'plugins.md').read_text()
BLOCKS = dict(re.findall(r'```python\n# (\w+\.py)\n(.*?)```', PAGE, re.DOTALL))
RECIPE = """
from rvm_jax import config


def get_config():
    c = config.load('tiny')
    c.steps, c.batch_size = 2, 2
    c.data.num_workers = 1
    c.model.unroll = 'false'
    c.optim.warmup = 0.0
    return c
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A recipe with the modules of the page beside it, and videos as .npy files."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'recipes').mkdir()
    (folder / 'recipes' / 'my_recipe.py').write_text(RECIPE)
    for name, text in BLOCKS.items():
        (folder / 'recipes' / name).write_text(text)
    (folder / 'arrays').mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        grays = rng.integers(0, 256, (24, 1, 1, 1), np.uint8)
        np.save(folder / 'arrays' / f'{number}.npy', np.broadcast_to(grays, (24, 48, 60, 3)))
    return folder


def rvm(folder, *words, code=0, **variables):
    """What `rvm` prints; its exit code must be as given."""
    env = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'RVM_PLUGINS')}
    env |= {'PYTHONPATH': str(Path(__file__).parents[2]), **variables}
    env['XLA_FLAGS'] = env.get('XLA_FLAGS', '').replace('--xla_force_host_platform_device_count=8', '')
    command = [sys.executable, '-m', f'rvm_jax.{words[0]}', *map(str, words[1:])]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_has_an_example_of_each_kind():
    assert list(BLOCKS) == ['my_source.py', 'my_core.py', 'my_objective.py', 'my_task.py']
    assert all(len(text.strip().splitlines()) <= 50 for text in BLOCKS.values())


@pytest.mark.long
def test_the_parts_of_the_page_train_probe_and_come_back(folder):
    own = [
        '--config', 'recipes/my_recipe.py', '--config.data.path=my_source:Arrays:arrays',
        '--config.model.core=my_core:Leaky', '--config.objective.name=my_objective:absolute',
    ]  # fmt: skip
    assert 'my_core:Leaky, 1 layers; 4,224 parameters' in rvm(folder, 'plan', *own, '--device', 'h100', '--devices', 1)
    train = 'train', *own, '--workdir', 'run', '--config.log.every=1'
    said = rvm(folder, *train, '--config.data.eval_path=my_source:Arrays:arrays')
    assert 'tiny: ' in said and '4 videos' in said and 'step 2/2' in said
    assert 'nothing to do, all 2 steps are done' in rvm(folder, *train)
    stored = json.loads((folder / 'run' / 'config.json').read_text())
    assert stored['architecture']['core'] == stored['config']['model']['core'] == 'my_core:Leaky'

    # The workdir names the core, and opens only where somebody wants its code.
    refused = rvm(folder, 'info', 'run', code=2)
    assert 'needs the core my_core:Leaky, and code that a file names is not imported' in refused
    assert 'set the environment variable RVM_PLUGINS=my_core' in refused
    assert 'there is no module my_core' in rvm(folder, 'info', 'run', code=2, RVM_PLUGINS='my_core')
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(folder / 'recipes')])
    trusted = {'RVM_PLUGINS': 'my_core', 'PYTHONPATH': path}
    assert re.search('core +my_core:Leaky, 1 layers', rvm(folder, 'info', 'run', **trusted))
    rvm(folder, 'export', '--model', 'run', '--output', 'export', **trusted)
    assert '`import my_core` before `from_pretrained`' in (folder / 'export' / 'README.md').read_text()
    rvm(folder, 'export', '--model', 'run', '--output', 'a.npz', '--format', 'official', code=2, **trusted)

    probe = 'probe', '--model', 'export', '--task', 'my_task:gray', '--data', 'arrays', '--output', 'probe'
    assert 'my_task:gray: error 0.' in rvm(folder, *probe, **trusted)
    assert json.loads((folder / 'probe' / 'results.json').read_text())['task'] == 'my_task:gray'

    program = (
        'import numpy as np, sys, rvm_jax\n'
        'try:\n    rvm_jax.from_pretrained("export")\n'
        'except Exception as error:\n    print(error)\n'
        'assert "my_core" not in sys.modules\n'
        'import my_core\n'
        'features, _ = rvm_jax.from_pretrained("export").encode(np.zeros((1, 3, 48, 48, 3), np.uint8))\n'
        'print(features.shape)\n'
    )
    env = os.environ | {'PYTHONPATH': path}
    done = subprocess.run([sys.executable, '-c', program], cwd=folder, env=env, capture_output=True, text=True)
    assert 'export: needs the core my_core:Leaky' in done.stdout and '(1, 3, 37, 64)' in done.stdout, done.stderr


@pytest.mark.long
def test_a_run_resumes_with_its_own_parts_only(folder):
    """The workdir names a core that this command does not import, and the difference is still said."""
    own = '--config', 'recipes/my_recipe.py', '--config.data.path=my_source:Arrays:arrays', '--workdir', 'other'
    rvm(folder, 'train', *own, '--config.model.core=my_core:Leaky')
    said = rvm(folder, 'train', *own, '--config.objective.name=my_objective:absolute', code=2)
    assert "model.core was 'my_core:Leaky', now 'rvmrnn'" in said
    assert "objective.name was 'pixels', now 'my_objective:absolute'" in said

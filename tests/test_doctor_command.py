"""`rvm doctor` on this CPU, alone and as two processes of a launch."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from rvm_jax import cli
from rvm_jax.checkup import decoding, machine, steps
from rvm_jax.synthetic.synthetic_videos import write_videos

REPO = pathlib.Path(__file__).parents[1]
SMALL = ['--config.data.image_size=16', '--config.model.unroll=false', '--config.data.num_workers=0']
CHECKS = ['packages', 'devices', 'driver', 'memory', 'recipe', 'open files', 'disk', 'attention', 'network', 'steps',
          'shared memory', 'decoding']  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Measure briefly: what comes out is not looked at."""
    monkeypatch.setattr(steps, 'SECONDS', 0.0)
    monkeypatch.setattr(steps, 'SENT', {'cpu': 2**10})
    monkeypatch.setattr(decoding, 'SECONDS', 0.0)
    monkeypatch.setattr(machine, 'WRITTEN', 2**20)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    write_videos(folder, 2, seed=0, num_frames=24, height=24, width=24, num_workers=0)
    return str(folder)


def doctor(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(['doctor', *arguments])
    return ended.value.code


def test_a_red_check_ends_with_code_2_after_all_checks_ran(quick, tmp_path, capsys):
    nowhere = str(tmp_path / 'nowhere')
    code = doctor('--data', nowhere, '--workdir', str(tmp_path), *SMALL, '--config.mesh.fsdp=3')
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1)[::-1] for line in out.splitlines() if not line.startswith(' '))
    colors = {text.split('  ')[0]: color for text, color in lines.items()}
    assert code == 2
    assert {check for check, color in colors.items() if color == 'red'} == {'attention', 'decoding'}
    assert 'data x fsdp must be 8' in out
    assert f'{nowhere}: ' in out
    assert err.strip() == 'rvm doctor: not ready: attention, decoding; fix what is red above'


def test_a_mistake_in_the_command_is_one_line(capsys):
    assert doctor('--config', 'configs/none.py') == 2
    assert doctor('--config.batchsize=3') == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


@pytest.mark.long
def test_processes_of_a_launch_report_together(videos, tmp_path):
    environment = os.environ | {
        'PYTHONPATH': str(REPO),
        'PATH': f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}',
    }
    done = subprocess.run(
        ['launch/local.sh', '--processes', '2', '--', 'doctor', '--json', '--data', videos, '--workdir', tmp_path,
         *SMALL], cwd=REPO, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found['ready']
    assert found['config'] == 'configs/tiny.py'
    assert found['processes'] == 2
    assert [(one['check'], one['process']) for one in found['checks']] == [(name, i) for name in CHECKS for i in (0, 1)]
    values = {one['check']: one['values'] for one in found['checks']}
    network = next(one for one in found['checks'] if one['check'] == 'network')
    assert 'over 2 devices of 2 processes' in network['text']
    assert network['values']['rate'] > 0
    assert values['devices']['devices'] == 2
    assert values['steps']['clips'] > 0 and values['steps']['loss'] > 0
    assert values['steps']['mfu'] is None
    assert values['decoding']['clips_per_core'] > 0
    assert values['disk']['checkpoint_bytes'] > 1e6
    assert not list(tmp_path.iterdir())

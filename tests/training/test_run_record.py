import json

import pytest

from rvm_jax import config as configs
from rvm_jax.training.run_record import loss_facts, recipe_line, run_facts


@pytest.mark.parametrize(
    ('command', 'line'),
    [
        (
            '/home/me/.venv/bin/rvm train --config configs/tiny.py --workdir /home/me/w --config.steps=30',
            'rvm train --config configs/tiny.py --config.steps=30',
        ),
        ('/x/rvm train --config=/home/me/mine.py --workdir=/w', 'rvm train --config=mine.py'),
        ('/x/rvm train --config /home/me/mine.py', 'rvm train --config mine.py'),
        (
            'rvm train --config.data.path=/my videos/all of them --config.data.eval_path=/e --config.seed=1',
            'rvm train --config.seed=1',
        ),
        ('rvm demo --output /home/me/demo', 'rvm demo'),
        ('/home/me/rvm_jax/train.py --config configs/b.py', 'rvm train --config configs/b.py'),
        ('/home/me/study.py --mine 3', 'rvm_jax.train, called from Python'),
        ('', ''),
    ],
)
def test_the_recipe_line_keeps_what_was_chosen_and_drops_places(command, line):
    assert recipe_line(command) == line


def test_losses_are_the_last_ones_up_to_the_step(tmp_path):
    entries = [{'step': 5, 'loss': 0.5}, {'step': 5, 'eval_loss': 0.4, 'eval_copy_last': 0.6}, {'step': 9, 'loss': 0.1}]
    (tmp_path / 'metrics.jsonl').write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries))
    assert loss_facts(tmp_path, 8) == {
        'Training loss': '0.50000 at step 5',
        'Held-out loss': '0.40000 at step 5 (copying the last source frame 0.60000)',
    }
    assert loss_facts(tmp_path, 9)['Training loss'] == '0.10000 at step 9'
    assert loss_facts(tmp_path, 4) == loss_facts(tmp_path / 'none', 4) == {}


def test_facts_of_a_run_name_no_folder_of_the_machine(tmp_path):
    config = configs.load('configs/tiny.py', ['data.path=/home/me/clips/', 'steps=2000'])
    run = {'version': '0.1.0', 'command': '/home/me/bin/rvm train --config configs/tiny.py --workdir /home/me/w'}
    facts = run_facts(tmp_path, run, config, 1500)
    assert facts == {
        'Recipe': 'rvm train --config configs/tiny.py',
        'Data': 'clips',
        'Trained for': '1,500 of 2,000 steps, 12,000 clips',
        'Written by': 'rvm_jax 0.1.0',
    }
    (tmp_path / 'data_manifest.json').write_text('{"videos": 1}')
    assert run_facts(tmp_path, run, config, 1500)['Data'] == 'clips, 1 video'

import json
import os
import subprocess
import sys

import pytest

from rvm_jax import config as configs
from rvm_jax.errors import UserError
from rvm_jax.training.run_record import check_same_run

SCRIPT = """
import sys
import types
import jax
import numpy as np
from rvm_jax.training import initialize

device = types.SimpleNamespace(platform=sys.argv[2])
initialize.keep_compiled(sys.argv[1], types.SimpleNamespace(devices=np.array([device])))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize(('platform', 'is_kept'), [('tpu', True), ('cpu', False)])
def test_compiled_programs_are_kept_but_not_those_of_a_cpu(tmp_path, platform, is_kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
    subprocess.run(
        [sys.executable, '-c', SCRIPT, tmp_path, platform], env=environment | {'JAX_PLATFORMS': 'cpu'}, check=True
    )
    assert bool(list(tmp_path.glob('compiled/*'))) == is_kept


@pytest.mark.parametrize(
    ('overrides', 'fix'),
    [
        (['steps=9', 'optim.b1=0.8'], 'continue with --config.optim.allow_change=true, or start'),
        (['seed=1', 'data.fps=5'], 'continue with --config.data.allow_change=true, or start'),
        (['seed=1', 'steps=9'], '--config.data.allow_change=true --config.optim.allow_change=true'),
        (['steps=9', 'model.size=s'], 'set it back, or start'),
        (
            ['seed=1', 'steps=9', 'optim.allow_change=true'],
            'config: seed was 0, now 1; set it back, continue',
        ),
    ],
)
def test_another_config_is_refused_with_the_key_that_allows_it(tmp_path, overrides, fix):
    begun, now = configs.load('configs/tiny.py'), configs.load('configs/tiny.py', overrides)
    (tmp_path / 'config.json').write_text(json.dumps({'config': begun.to_dict()}))
    with pytest.raises(UserError) as error:
        check_same_run(tmp_path, now, None)
    assert fix in str(error.value)


def test_another_config_that_is_allowed_is_told(tmp_path, capsys):
    allowed = ['steps=9', 'seed=1', 'log.every=7', 'optim.allow_change=true', 'data.allow_change=true']
    (tmp_path / 'config.json').write_text(json.dumps({'config': configs.load('configs/tiny.py').to_dict()}))
    [change] = check_same_run(tmp_path, configs.load('configs/tiny.py', allowed), None)
    assert change.endswith('continuing as allowed: seed was 0, now 1; steps was 5000, now 9')
    assert change in capsys.readouterr().err

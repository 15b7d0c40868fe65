import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import types
import jax
import numpy as np
from rvm_jax.training import start

device = types.SimpleNamespace(platform=sys.argv[2])
start.keep_compiled(sys.argv[1], types.SimpleNamespace(devices=np.array([device])))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize(('platform', 'is_kept'), [('tpu', True), ('cpu', False)])
def test_compiled_programs_are_kept_in_the_workdir_but_not_those_of_a_cpu(tmp_path, platform, is_kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
    subprocess.run(
        [sys.executable, '-c', SCRIPT, tmp_path, platform], env=environment | {'JAX_PLATFORMS': 'cpu'}, check=True
    )
    assert bool(list(tmp_path.glob('compiled/*'))) == is_kept

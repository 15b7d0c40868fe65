import os
import subprocess
import sys

import numpy as np
import pytest

from rvm_jax.visualization import canvas, plots

DRAW = """
from rvm_jax.visualization import canvas, plots
canvas.text_picture('a', 12), plots.loss_curve([1, 2], [1.0, 0.5]), plots.cells_plot('frames', {'a': {'1': [0.5]}})
import matplotlib
print(matplotlib.rcParams['text.usetex'], matplotlib.get_backend(auto_select=False))
"""


@pytest.mark.parametrize(
    'backend', ['module://matplotlib_inline.backend_inline', 'module://absent', 'absent', 'svg', '']
)
def test_no_backend_that_a_shell_names_matters(tmp_path, backend):
    (tmp_path / 'matplotlibrc').write_text('text.usetex: True\nlines.linewidth: 0\n')  # needs a TeX, if it is used
    environment = os.environ | {'MPLBACKEND': backend, 'MATPLOTLIBRC': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', DRAW], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.split() == ['True', backend if backend in ('module://absent', 'svg') else 'None']


@pytest.mark.parametrize(
    'text', ['a$b', '$\\x$', '{', 'films 映画', '\N{GRINNING FACE}', 'a\nb', 'bad \udc80 name', '']
)
def test_any_name_can_be_written_without_a_warning(text, recwarn):
    picture = canvas.text_picture(text, 14)
    assert picture.dtype == np.uint8 and picture.shape[0] == 21
    plots.cells_plot(text.encode(errors='replace').decode(), {f'{text!a}$': {f'{text!a}$': [0.5]}})
    assert not recwarn.list

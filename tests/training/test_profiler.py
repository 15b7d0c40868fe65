import jax
import jax.numpy as jnp
import pytest

from rvm_jax import config as configs
from rvm_jax.storage import files
from rvm_jax.training.profiler import Profiler


def traces(tmp_path, last, **changes):
    """The trace files of a run of steps 1 to last, and what was said."""
    profile = configs.default().profile
    profile.update(changes)
    state = jnp.zeros(4)
    with Profiler(profile, str(tmp_path), 1) as trace:
        for step in range(1, last + 1):
            trace.before(step, state)
            state = jax.jit(lambda x: x + 1)(state)
    return list(tmp_path.rglob('*.xplane.pb'))


@pytest.mark.parametrize('last', [9, 3])
def test_the_chosen_steps_are_traced_even_if_the_run_ends(tmp_path, capsys, last):
    [trace] = traces(tmp_path, last, steps=3, first=2)
    assert trace.parent.parent == tmp_path / 'plugins' / 'profile' and trace.stat().st_size
    assert f'traced from step 3: tensorboard --logdir {tmp_path}' in capsys.readouterr().err


def test_nothing_is_traced_unless_asked_for(tmp_path):
    assert not traces(tmp_path, 20)


def test_only_the_first_process_says_where_its_trace_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    assert traces(tmp_path, 4, steps=1, first=0) and capsys.readouterr().err == ''


def test_a_trace_of_a_run_in_a_bucket_reaches_it(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    profile = configs.default().profile
    profile.update(steps=1, first=0)
    with Profiler(profile, f'{store.path}/tensorboard', 1) as trace:
        trace.before(1, jnp.zeros(4))
    names = list(files.files(f'{store.path}/tensorboard'))
    assert any(name.startswith('plugins/profile/') and name.endswith('.xplane.pb') for name in names)
    assert f'--logdir {store.path}/tensorboard' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing stays on the host


def test_a_bucket_that_takes_no_trace_does_not_end_the_run(store, monkeypatch, capsys):
    monkeypatch.setattr(files, 'write', lambda *_: 1 / 0)
    profile = configs.default().profile
    profile.update(steps=1, first=0)
    with Profiler(profile, f'{store.path}/tensorboard', 1) as trace:
        trace.before(1, jnp.zeros(4))
    assert 'training continues' in capsys.readouterr().err

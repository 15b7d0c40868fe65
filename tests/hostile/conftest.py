"""What all tests on hostile files share: the guard, and how many examples hypothesis tries."""

import dataclasses
import importlib.util
import pathlib
import sys

import hypothesis
import pytest


def load(name):
    """A module beside this one, by its path, because the folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).with_name(f'{name}.py'))
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


SAME = {
    'derandomize': True,
    'deadline': None,
    'database': None,
    'suppress_health_check': [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile('hostile', max_examples=25, **SAME)
hypothesis.settings.load_profile('hostile')


@pytest.fixture(scope='session')
def guard():
    """The module guard.py, with `mutants` of mutants.py."""
    if sys.platform != 'linux':
        pytest.skip('the guard looks into /proc')
    module = load('guard')
    module.mutants = load('mutants').mutants
    return module


@pytest.fixture
def guarded(guard):
    """guarded(read, files, ...) -> [Outcome] as guard.run gives them, none of which has a fault."""

    def run(read, files, **how):
        outcomes = guard.run(read, files, **how)
        faults = [f'{outcome.file}: {outcome.fault}' for outcome in outcomes if outcome.fault]
        assert not faults, f'{len(faults)} of {len(outcomes)} files:\n' + '\n'.join(faults[:20])
        return outcomes

    return run


@pytest.fixture(scope='session')
def models(golden, tmp_path_factory):
    """{name: path} of small valid models: an export folder, a released .npz, folders of Hugging Face."""
    import numpy as np

    from rvm_jax import pretrained
    from rvm_jax.models import architecture, build, param_names

    top = tmp_path_factory.mktemp('valid')
    arch = dataclasses.replace(architecture.SIZES['tiny'], encoder_layers=2, core_layers=1, decoder_layers=1, width=16)
    shapes = param_names.named_shapes(build.abstract(arch))
    named = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    model = param_names.from_named(build.abstract(arch), named, 'test')
    paths = {'export': top / 'export', 'official': top / 'official.npz'}
    pretrained.save_pretrained(model, paths['export'])
    pretrained.save_official(model, paths['official'])
    for name, case in {'dinov2': 'dinov2/plain', 'dinov3': 'dinov3/mlp', 'clip': 'clip/openai'}.items():
        paths[name] = top / name
        golden(case).write(paths[name])
    return paths
